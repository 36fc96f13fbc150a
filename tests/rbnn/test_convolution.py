"""The convolution of signs gives the float one's bits, whichever inputs the hardware takes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rbnn.binarize import sign
from rbnn.convolution import INTEGERS, encoded, pieces, sign_convolution
from rbnn.layers import RotatedConv2d

# in_channels, out_channels, image size, kernel_size, stride, padding
SHAPES = [
    (16, 16, 8, 3, 1, 1),
    (64, 128, 8, 1, 2, 0),
    (512, 64, 4, 3, 2, 1),
    (3, 5, 6, 5, 1, 2),
    (1, 4, 6, 1, 1, 0),
]
needs_integers = pytest.mark.skipif(
    not INTEGERS, reason="this CPU or build of torch has no 8-bit dot product"
)


def problem(
    shape: tuple[int, ...], channels_last: bool
) -> tuple[Tensor, Tensor, list[int], list[int]]:
    num_in, num_out, size, kernel_size, stride, padding = shape
    signs = sign(torch.randn(3, num_in, size, size))
    if channels_last:
        signs = signs.contiguous(memory_format=torch.channels_last)
    weight = sign(torch.randn(num_out, num_in, kernel_size, kernel_size))
    return signs, weight, [stride] * 2, [padding] * 2


@needs_integers
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_give_the_bits_of_floats(shape: tuple[int, ...], channels_last: bool) -> None:
    bx, bw, stride, padding = problem(shape, channels_last)
    expected = F.conv2d(bx, bw, None, stride, padding)
    assert torch.equal(sign_convolution(encoded(bx > 0), bw, stride, padding), expected)
    assert torch.equal(sign_convolution(bx, bw, stride, padding), expected)


@pytest.mark.parametrize("as_integers", [False, pytest.param(True, marks=needs_integers)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compiler_knows_shape_and_layout(shape: tuple[int, ...], as_integers: bool) -> None:
    bx, bw, stride, padding = problem(shape, True)
    given = encoded(bx > 0) if as_integers else bx
    torch.library.opcheck(
        torch.ops.rbnn.sign_convolution.default,
        (given, bw, stride, padding),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_tf32_inputs_give_the_bits_of_float32_on_a_gpu(shape: tuple[int, ...]) -> None:
    bx, bw, stride, padding = problem(shape, True)
    actual = sign_convolution(bx.cuda(), bw.cuda(), stride, padding)
    assert torch.equal(actual.cpu(), F.conv2d(bx, bw, None, stride, padding))


def test_two_pieces_hold_what_tf32_drops() -> None:
    x = torch.randn(2, 3, 4, 5).exp() * 1e-3 * sign(torch.randn(2, 3, 4, 5))
    rounded, rest = pieces(x).chunk(2, 1)
    assert torch.equal(rounded + rest, x)
    assert not (rounded.view(torch.int32) % (1 << 13)).any()
    assert (rest.abs() <= x.abs() * 2**-11).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_from_pieces_are_those_of_float32(shape: tuple[int, ...], device: str) -> None:
    num_in, num_out, size, kernel_size, stride, padding = shape
    layer = RotatedConv2d(num_in, num_out, kernel_size, stride, padding)
    with torch.no_grad():
        layer.rotate.fill_(0.4)
        layer.alpha[0] = 0
    x = torch.randn(3, num_in, size, size)
    found = []
    for dtype, where, by_pieces in ((torch.float64, "cpu", False), (torch.float32, device, True)):
        layer = deepcopy(layer).to(where, dtype)
        layer.by_pieces = by_pieces
        given = x.to(where, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = layer(given)
        up = torch.linspace(-1, 2, y.numel(), dtype=dtype, device=where).view_as(y) * 1e-4
        found.append(torch.autograd.grad(y, (given, layer.weight, layer.alpha), up))
    for expected, actual in zip(*found, strict=True):
        assert float((actual.cpu() - expected).norm()) <= 2e-6 * float(expected.norm())
