"""The baseline computes what rbnn's layer does in float64: forward, gradients, rotation update."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baseline import UnfusedConv2d, to_float, unfuse
from rbnn.binarize import set_surrogate
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.models import build

Shape = tuple[int, int, int, int, int]
# in_channels, out_channels, kernel_size, stride, padding
LAYERS: list[Shape] = [(16, 16, 3, 1, 1), (16, 32, 3, 2, 1), (8, 24, 1, 2, 0), (3, 5, 5, 1, 2)]


def assert_same(ours: Tensor, baseline: Tensor, tolerance: float = 1e-9) -> None:
    assert (ours - baseline).abs().max() <= tolerance * baseline.abs().max()


def gradients(layer: nn.Module, x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer(x).backward(grad_output)
    return {"x": x.grad} | {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize(("t", "k"), [(0.1, 10.0), (1.0, 1.0), (5.0, 1.0)])
@pytest.mark.parametrize("a32", [False, True])
@pytest.mark.parametrize("shape", LAYERS)
def test_a_layer_is_that_of_rbnn(shape: Shape, a32: bool, t: float, k: float) -> None:
    ours = RotatedConv2d(*shape, a32=a32).double()
    nn.init.uniform_(ours.rotate, 0.2, 1.5)
    set_surrogate(ours, t, k)
    baseline = UnfusedConv2d(copy.deepcopy(ours))
    x = torch.randn(4, shape[0], 8, 8, dtype=torch.float64)
    expected = baseline(x)
    assert_same(ours(x), expected)
    grad_output = torch.randn_like(expected)
    wanted = gradients(baseline, x, grad_output)
    # rbnn takes the reference's float32 peak: see binarize.ACTIVATION_PEAK
    for name, grad in gradients(ours, x, grad_output).items():
        assert_same(grad, wanted[name], 1e-6)
    ours.update_rotation()
    baseline.update_rotation()
    assert_same(ours.R1, baseline.R1)
    assert_same(ours.R2, baseline.R2)


def test_an_unfused_network_holds_the_same_tensors_and_gives_the_same_logits() -> None:
    ours = build("resnet20_1w1a", "cifar10").double()
    baseline = unfuse(copy.deepcopy(ours))
    assert not rotated_layers(baseline)
    shapes, same = ({n: p.shape for n, p in net.named_parameters()} for net in (ours, baseline))
    assert shapes == same
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert_same(ours.train()(x), baseline.train()(x))


def test_the_float_network_has_a_plain_convolution_in_place_of_each_rotated_one() -> None:
    ours = build("resnet18_1w1a", "cifar10")
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in ours.modules())
    plain = to_float(ours)
    assert not rotated_layers(plain)
    assert sum(type(module) is nn.Conv2d for module in plain.modules()) == num_convolutions
    assert plain(torch.randn(2, 3, 32, 32)).shape == (2, 10)
