"""sign and its surrogate gradients against hand formulas; standardisation against the plain one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rbnn.binarize import binarize_activation, binarize_weight, set_surrogate, sign, standardize
from rbnn.layers import RotatedConv2d

SQRT2 = math.sqrt(2)
SHAPES = [(1, 2, 1, 1), (3, 16, 5, 5), (8, 7, 3, 3), (2, 64, 1, 1)]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def plain_standardize(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)).view(x.shape)


def weight_gradient(values: list[float], t: float, k: float, grad: float = 1.0) -> list[float]:
    v = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    binarize_weight(v, scalar(t), scalar(k)).backward(torch.full_like(v, grad))
    assert v.grad is not None
    return v.grad.tolist()


def test_sign_is_one_at_zero_and_keeps_dtype_and_shape() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        values = sign(torch.tensor([[-2.0, -1e-30], [0.0, -0.0], [1e-30, 3.0]], dtype=dtype))
        assert values.dtype == dtype
        assert values.tolist() == [[-1, -1], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("t", "k"), [(0.01, 100.0), (0.3, 1 / 0.3), (1.0, 1.0), (3.0, 1.0), (9.9, 1.0), (0.5, 7.0)]
)
def test_weight_surrogate_is_a_triangle_of_documented_height_and_width(t: float, k: float) -> None:
    edge = SQRT2 / t
    at_zero, half, minus_half = weight_gradient([0.0, edge / 2, -edge / 2], t, k)
    assert at_zero == pytest.approx(k * SQRT2 * t, rel=1e-12)
    assert half == minus_half == pytest.approx(k * SQRT2 * t / 2, rel=1e-12)
    inside, outside, minus_outside, far = weight_gradient(
        [edge * (1 - 1e-6), edge * (1 + 1e-6), -edge * (1 + 1e-6), 1e6], t, k
    )
    assert inside == pytest.approx(k * SQRT2 * t * 1e-6, rel=1e-6)
    assert outside == minus_outside == far == 0
    assert weight_gradient([edge], t, k)[0] == pytest.approx(0, abs=1e-12 * k)
    linear = weight_gradient([edge / 2], t, k, grad=-3.0)
    assert linear == pytest.approx([-3 * half], rel=1e-12)


@pytest.mark.parametrize("t", [0.01, 0.5, 1.0, 1.5, 4.0])
def test_activation_surrogate_has_peak_one_and_t_at_least_one(t: float) -> None:
    x, g = torch.randn(2, 12, 3, 5, 5, dtype=torch.float64)
    x.requires_grad_()
    (actual,) = torch.autograd.grad(binarize_activation(x, scalar(t)), x, g)
    z = plain_standardize(x)
    clipped = max(t, 1.0)
    grad_z = g * (SQRT2 * clipped - clipped**2 * z.abs()).clamp(min=0)
    (expected,) = torch.autograd.grad(z, x, grad_z.detach())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardize_equals_the_plain_formula_forward_and_backward(shape: tuple[int, ...]) -> None:
    x, g = 3 * torch.randn(2, *shape, dtype=torch.float64) + 2
    x.requires_grad_()
    actual, expected = standardize(x), plain_standardize(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out, x, g)[0] for out in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e-8, 1e4 / 3])
@pytest.mark.parametrize("n", [1, 9, 4607])
def test_a_constant_row_gives_zeros_sign_plus_one_and_no_gradient(
    dtype: torch.dtype, value: float, n: int
) -> None:
    x = torch.full((2, n, 1, 1), value, dtype=dtype, requires_grad=True)
    z = standardize(x)
    assert torch.count_nonzero(z) == 0
    signs = binarize_activation(x, torch.ones((), dtype=dtype))
    assert bool((signs == 1).all())
    for out in (z, signs):
        (gradient,) = torch.autograd.grad(out, x, torch.randn_like(out))
        assert torch.count_nonzero(gradient) == 0


def test_a_constant_row_leaves_the_rows_beside_it_alone() -> None:
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    mixed = x.clone()
    mixed[1] = 5.0
    torch.testing.assert_close(standardize(mixed)[[0, 2]], standardize(x)[[0, 2]], rtol=0, atol=0)


def test_a_row_of_tiny_values_that_differ_is_not_constant() -> None:
    z = standardize(torch.tensor([[1e-12, -1e-12, 3e-12, 0.0]]))
    assert float(z.std()) == pytest.approx(1, rel=1e-5)


def test_set_surrogate_reaches_every_rotated_layer_in_place() -> None:
    layers = [RotatedConv2d(2, 2, 3), RotatedConv2d(2, 2, 1)]
    model = nn.Sequential(layers[0], nn.Sequential(layers[1], nn.ReLU()))
    before = [(layer.t, layer.k) for layer in layers]
    set_surrogate(model, 0.25, 4.0)
    for layer, (t, k) in zip(layers, before, strict=True):
        assert layer.t is t and layer.k is k
        assert (float(layer.t), float(layer.k)) == (0.25, 4.0)
    assert not {"0.t", "0.k"} & set(model.state_dict())
