"""The engines: binary convolutions equal to the bit, networks but for rounding."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import sign
from rbnn.models import MODELS
from rbnn.packed import onnx, openvino
from rbnn.packed.engines import Run, run_onnx, run_openvino, run_torch
from rbnn.packed.fold import fold
from rbnn.packed.layers import BinaryConv2d

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(onnx|openvino)")

DATASET = {32: "cifar10", 224: "imagenet"}


def engines(model: nn.Module, size: int, num_classes: int) -> dict[str, Run]:
    """Both exported forms of a packed network."""
    content = onnx.network(model, size, num_classes).SerializeToString()
    return {
        "onnx": run_onnx(content, 1),
        "openvino": run_openvino(openvino.network(model, size), 1),
    }


class OneLayer(nn.Module):
    """A binary convolution that whole images go through."""

    def __init__(
        self, weight: Tensor, stride: int = 1, padding: int = 1, a32: bool = False
    ) -> None:
        super().__init__()
        num_out, num_in, kernel_size, _ = weight.shape
        self.widen = nn.Conv2d(3, num_in, 1, bias=False)
        self.conv = BinaryConv2d(num_in, num_out, kernel_size, stride, padding, a32=a32)
        self.conv.set_weight(weight)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.widen(x))


def test_engines_that_end_in_any_order_leave_signals_alone() -> None:
    """What else this fails by is the end of the process: see openvino_core."""
    model = openvino.network(OneLayer(torch.ones(4, 16, 3, 3)), 8)
    runs = [run_openvino(model.clone(), 1) for _ in range(2)]
    for number in range(2):
        runs[number](torch.ones(1, 3, 8, 8))
    runs.pop(0)  # before the later one
    runs.clear()
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


@pytest.mark.parametrize(
    ("shape", "stride", "padding"),
    [
        ((16, 16, 3, 3), 1, 1),
        ((32, 16, 3, 3), 2, 1),
        ((32, 32, 3, 3), 1, 1),
        ((24, 40, 3, 3), 1, 1),
        ((128, 64, 1, 1), 2, 0),
        ((128, 64, 3, 3), 2, 1),
        ((512, 512, 3, 3), 1, 1),
    ],
)
def test_convolutions_are_equal_to_the_bit(
    shape: tuple[int, ...], stride: int, padding: int
) -> None:
    """Values on a grid, so that every engine's mean is exact; a third of them lie on the mean."""
    weight = sign(torch.randn(shape))
    model = OneLayer(weight, stride, padding)
    nn.init.zeros_(model.widen.weight)[:, 0] = torch.randn(shape[1], 1, 1).sign()
    images = torch.randint(-1, 2, (2, 3, 8, 8)).float()
    images[:, 0, 4:] = -images[:, 0, :4]  # the mean is 0
    x = model.widen(images)
    assert float(x.mean((1, 2, 3)).abs().max()) == 0 and bool((x == 0).any())
    wanted = F.conv2d(torch.where(x >= 0, 1.0, -1.0), weight, None, stride, padding)
    assert torch.equal(model(images), wanted)
    for name, run in engines(model, 8, 1).items():
        assert torch.equal(run(images), wanted), name


@pytest.mark.parametrize(("num_channels", "on_one_bit"), [(32, True), (16, False)])
def test_openvino_takes_one_bit_where_that_is_faster(num_channels: int, on_one_bit: bool) -> None:
    model = OneLayer(torch.ones(num_channels, num_channels, 3, 3))
    kinds = {op.get_type_name() for op in openvino.network(model, 8).get_ops()}
    assert ("BinaryConvolution" in kinds) == on_one_bit


@pytest.mark.parametrize("a32", [False, True])
@pytest.mark.parametrize(("name", "size"), MODELS)
def test_every_network_gives_torchs_logits_in_every_engine(
    name: str, size: int, a32: bool, network: Callable[..., nn.Module]
) -> None:
    """But for rounding, which 34 random layers make a hundredth of; in one image of two, as in the
    other a sign that lies within rounding of its threshold may flip.
    """
    model = fold(network(name, DATASET[size], a32))
    images = torch.randn(2, 3, size, size)
    wanted = run_torch(model)(images)
    for engine, run in engines(model, size, wanted.shape[1]).items():
        error = (run(images) - wanted).norm(dim=1) / wanted.norm(dim=1)
        assert float(error.min()) < 0.05, engine


@pytest.mark.parametrize("value", [0.0, 0.1, -1.0 / 3])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(("num_in", "a32"), [(16, False), (32, False), (16, True)])
def test_a_constant_image_is_positive_everywhere_or_0_with_a32(
    value: float, engine: str, num_in: int, a32: bool
) -> None:
    model = OneLayer(torch.ones(8, num_in, 1, 1), 1, 0, a32)
    nn.init.constant_(model.widen.weight, 1.0 / 3)
    images = torch.full((1, 3, 8, 8), value)
    wanted = 0 if a32 else num_in
    assert bool((engines(model, 8, 1)[engine](images) == wanted).all())
