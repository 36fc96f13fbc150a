"""RotatedConv2d: the reference vectors, its binary weight, where gradients stop, its rotation."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rbnn import weights
from rbnn.binarize import set_surrogate, standardize
from rbnn.layers import RotatedConv2d, Semantics, rotated_layers
from rbnn.rotation import objective
from rbnn.weights import (
    by_shape,
    mixed_together,
    mixed_weights,
    objectives,
    update_rotations,
    weights_given,
)

DATA = Path(__file__).parents[1] / "data"
# in_channels, out_channels, kernel_size, stride, padding
Shape = tuple[int, int, int, int, int]
LAYERS: list[Shape] = [
    (16, 16, 3, 1, 1),
    (16, 32, 3, 2, 1),
    (8, 24, 1, 2, 0),
    (3, 5, 5, 1, 2),
    (1, 4, 1, 1, 0),
]


def weight_gradient(layer: RotatedConv2d) -> Tensor:
    layer(torch.randn(4, layer.in_channels, 6, 6)).square().sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


def assert_relative(actual: Tensor | None, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    assert actual is not None
    difference = np.abs(actual.detach().numpy().reshape(expected.shape) - expected).max()
    assert difference <= tolerance * np.abs(expected).max() + 1e-15


@pytest.mark.parametrize("index", range(5))
def test_a_layer_reproduces_the_reference_vectors(index: int) -> None:
    with np.load(DATA / f"layer_{index}.npz") as file:
        ref = {name: file[name] for name in file.files}
    num_filters, num_channels, kernel_size, _ = ref["weight"].shape
    shape = num_channels, num_filters, kernel_size, int(ref["stride"]), int(ref["padding"])
    layer = RotatedConv2d(*shape, a32=bool(ref["a32"])).double()
    names = {"weight": "weight", "alpha": "alpha", "rotate": "beta", "R1": "R1", "R2": "R2"}
    state = layer.state_dict()
    layer.load_state_dict(
        {ours: torch.from_numpy(ref[theirs]).view_as(state[ours]) for ours, theirs in names.items()}
    )
    set_surrogate(layer, float(ref["t"]), float(ref["k"]))

    x = torch.from_numpy(ref["x"]).requires_grad_()
    output = layer(x)
    output.backward(torch.from_numpy(ref["grad_output"]))
    assert_relative(output, ref["output"])
    gradients = {"input": x, "weight": layer.weight, "alpha": layer.alpha, "beta": layer.rotate}
    for name, leaf in gradients.items():
        assert_relative(leaf.grad, ref[f"grad_{name}"])

    layer.update_rotation()
    assert_relative(layer.R1, ref["R1_updated"])
    assert_relative(layer.R2, ref["R2_updated"])
    assert_relative(layer(x), ref["output_updated"])


@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("beta", [math.pi / 2, 0.0, 0.4])
def test_binary_weights_are_exactly_plus_or_minus_one(shape: Shape, beta: float) -> None:
    layer = RotatedConv2d(*shape)
    torch.nn.init.constant_(layer.rotate, beta)
    weight = layer.binary_weight()
    assert weight.shape == layer.weight.shape and bool((weight.abs() == 1).all())


def test_a_constant_filter_and_a_constant_sample_give_plus_one_and_never_nan() -> None:
    layer = RotatedConv2d(4, 3, 3, padding=1)
    with torch.no_grad():
        layer.weight[1] = 0.3
        layer.alpha.fill_(1.0)
    assert bool((layer.binary_weight()[1] == 1).all())
    x = torch.randn(2, 4, 5, 5)
    x[0] = -2.5
    x.requires_grad_()
    output = layer(x)
    assert output[0, 1, 2, 2] == 4 * 3 * 3
    output.square().sum().backward()
    for leaf in (output, x.grad, layer.weight.grad, layer.rotate.grad, layer.alpha.grad):
        assert leaf is not None and bool(leaf.isfinite().all())


def test_the_reference_stops_the_weight_gradient_at_the_start_and_weight_decay_opens_it() -> None:
    layer = RotatedConv2d(8, 8, 3, padding=1)
    assert torch.count_nonzero(weight_gradient(layer)) == 0
    through = RotatedConv2d(8, 8, 3, padding=1, semantics="through_rotation")
    through.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(through(x), layer(x))
    assert torch.count_nonzero(weight_gradient(through)) > 0
    torch.nn.init.constant_(layer.rotate, math.pi / 2 - 0.1)
    assert torch.count_nonzero(weight_gradient(layer)) > 0


@pytest.mark.parametrize("shape", LAYERS[:4])
def test_rotations_change_by_their_update_alone_which_raises_the_objective(shape: Shape) -> None:
    layer = RotatedConv2d(*shape)
    X = standardize(layer.weight.detach()).view(len(layer.weight), len(layer.R1), len(layer.R2))
    before = {name: value.clone() for name, value in layer.state_dict().items()}

    def changed() -> set[str]:
        now = layer.state_dict()
        return {name for name, value in now.items() if not torch.equal(value, before[name])}

    R1, R2 = layer.R1, layer.R2
    for training in (True, False):
        layer.train(training)(torch.randn(2, shape[0], 5, 5))
    assert changed() == set()
    layer.update_rotation()
    assert layer.R1 is R1 and layer.R2 is R2 and changed() == {"R1", "R2"}
    assert objective(X, R1, R2) > objective(X, before["R1"], before["R2"])


@pytest.mark.parametrize(("out_channels", "num_threads"), [(16, 1), (1024, 2)])
def test_a_small_network_is_rotated_on_one_thread_and_the_others_come_back(
    out_channels: int, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counted(*args: object) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("stopped here")

    monkeypatch.setattr(weights, "bi_rotation_updates", counted)
    monkeypatch.setattr(weights, "TOGETHER", 1 << 16)
    with pytest.raises(RuntimeError, match="stopped here"):
        update_rotations([RotatedConv2d(16, out_channels, 3)])
    assert seen == [num_threads] and torch.get_num_threads() == 2


@pytest.mark.parametrize("semantics", ["reference", "through_rotation"])
def test_layers_of_one_shape_as_one_batch_are_what_each_is_alone(
    semantics: Semantics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, gradients and objectives as a GPU computes them, to float64's rounding."""
    shapes = [(4, 6, 3), (6, 4, 3), (4, 6, 3), (4, 6, 1)]
    model = torch.nn.ModuleList(RotatedConv2d(*s, semantics=semantics) for s in shapes).double()
    own = [*rotated_layers(model).values()]
    for layer in own:
        torch.nn.init.uniform_(layer.rotate, 0.2, 1.4)
    set_surrogate(model, 0.3, 1 / 0.3)
    grads = [torch.randn_like(layer.weight) for layer in own]

    def results() -> list[torch.Tensor]:
        model.zero_grad()
        with weights_given(own):
            given = [layer.given_weight for layer in own]
        torch.autograd.backward(given, grads)
        found = [p.grad for layer in own for p in (layer.weight, layer.rotate)]
        return [*given, *found, *mixed_weights(own), objectives(own)]

    alone = results()
    monkeypatch.setattr(weights, "on_gpu", lambda layers: True)
    assert [len(group) for group in by_shape(own)] == [2, 1, 1]
    for ours, expected in zip(results(), alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("together", [False, True])
def test_autocast_does_not_touch_the_weights(together: bool) -> None:
    """Rounded to bfloat16, the rotation's products turned 229 of resnet20's 267,264 signs, so a
    step and its evaluation used other weights.
    """
    layer = RotatedConv2d(16, 16, 3)
    torch.nn.init.constant_(layer.rotate, 0.8)
    mixed = partial(mixed_together, [layer]) if together else layer.mixed_weight
    expected = mixed()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixed(), expected)
