"""Compiled batches give what eager ones give, recompiling for nothing; bf16."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import set_surrogate
from rbnn.code_cache import CACHE
from rbnn.errors import RecipeError
from rbnn.hardware import obstacle
from rbnn.layers import RotatedConv2d
from rbnn.network import Network
from rbnn.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(dataset="digits", batch_size=4, compile="on")
needs_compiler = pytest.mark.skipif(
    bool(obstacle("cpu")), reason="torch.compile needs a C++ compiler, and there is none here"
)


class Small(nn.Module):
    """A float and a rotated convolution, batch normalisation, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.conv = RotatedConv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 10)
        nn.init.uniform_(self.conv.rotate, 0.3, 1.2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.hardtanh(self.bn1(self.first(x.to(memory_format=torch.channels_last))))
        out = F.hardtanh(self.bn2(self.conv(out)) + out)
        return self.linear(out.mean((2, 3)))


def results(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Logits, and the gradients of their cross-entropy."""
    network.zero_grad()
    logits = network(images)
    F.cross_entropy(logits, torch.arange(len(images))).backward()
    return {"logits": logits.detach()} | {
        name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A compiled network that has seen one full training batch: compiling takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("inductor")))
        torch.manual_seed(3)
        network = Network(Small(), RECIPE, CPU)
        results(network, torch.randn(4, 3, 6, 6))
        yield network
    torch.compiler.reset()


@needs_compiler
@pytest.mark.parametrize(("t", "k"), [(1.0, 1.0), (0.2, 5.0), (4.0, 1.0)])
def test_compiled_equals_eager_within_rounding_and_t_and_k_recompile_nothing(
    compiled: Network, t: float, k: float
) -> None:
    set_surrogate(compiled, t, k)
    eager = copy.deepcopy(compiled.model)
    images = torch.randn(4, 3, 6, 6)
    with torch._dynamo.config.patch(error_on_recompile=True):
        ours = results(compiled, images)
        again = results(compiled, images)
    # It would warn of CUDA, on a CPU.
    assert not logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING)
    for name, expected in results(eager, images).items():
        difference = (ours[name if name == "logits" else f"model.{name}"] - expected).abs()
        assert float(difference.max()) <= max(1e-4 * float(expected.abs().max()), 1e-6), name
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    assert torch.count_nonzero(ours["model.conv.weight"]) > 0


@needs_compiler
@pytest.mark.parametrize(("size", "training"), [(3, True), (4, False), (3, False)])
def test_smaller_batches_and_evaluation_are_eager(
    compiled: Network, size: int, training: bool
) -> None:
    images = torch.randn(size, 3, 6, 6)
    eager = copy.deepcopy(compiled.model).train(training)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(compiled.train(training)(images), eager(images))
    compiled.train()


def test_without_a_compiler_on_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "none-such")
    told = r"^compile is 'on', but there is no C\+\+ compiler \(none-such\); install it, or pass"
    with pytest.raises(RecipeError, match=f"{told} --compile off$"):
        Network(Small(), RECIPE, CPU)


def test_bf16_computes_the_float_parts_in_bfloat16_and_signs_exactly() -> None:
    model, images = Small(), torch.randn(4, 3, 6, 6)
    eager = RECIPE.replace(compile="off")
    wide = results(Network(model, eager, CPU), images)
    narrow = results(Network(model, eager.replace(precision="bf16"), CPU), images)
    assert not torch.equal(narrow["logits"], wide["logits"])
    for value in narrow.values():
        assert value.dtype == torch.float32 and bool(value.isfinite().all())
    layer = RotatedConv2d(8, 8, 3)
    x = torch.randn(2, 8, 6, 6).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.float()).bfloat16())
