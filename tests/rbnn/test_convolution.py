"""The convolution of signs gives the float one's bits, whichever inputs the hardware takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rbnn.binarize import sign
from rbnn.convolution import INTEGERS, encoded, sign_convolution

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
