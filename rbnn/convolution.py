"""The convolution of signs: exact integers, whatever the hardware computes them with.

Products of -1 and +1 and their sums (|sum| <= 4608 here) are whole numbers that float32 holds, so
these give the same bits:
    CPU with AVX-512 VNNI or AVX-VNNI   uint8 activations x int8 weights, int32 sums: 2 to 3 times
                                        as fast
    CUDA                                TF32 inputs, float32 sums, whatever `precision` says
    anything else                       the float convolution
bfloat16 inputs are not used for it: their output would be rounded to bfloat16, which holds whole
numbers to 256 only.

Its gradients are sums of floats with the signs -1 and +1. On CUDA TF32 inputs hold those signs, but
11 bits of a float: a float is given as two `pieces` that hold 22 to 23 of its 24 bits. On an H100
this took 0.2 to 0.5 of the time of float32 inputs by x and 0.4 to 0.9 by the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TF32_DROPS = 13  # of a float32's 23 bits of fraction
ZERO_POINT = 1  # of the 8-bit activations: 0 stands for -1, 2 for +1, and zero padding for 1


def has_integer_convolution() -> bool:
    """Whether this CPU and this build of torch convolve 8-bit integers faster than floats."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has_dot_product = any(
        capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )
    return (
        has_dot_product
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv_pointwise")
    )


INTEGERS = has_integer_convolution()  # once, as the compiler cannot trace the question


def takes_integers(x: Tensor) -> bool:
    """Whether `sign_convolution` is to be given the signs of x as `encoded` integers."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and INTEGERS


def encoded(is_positive: Tensor) -> Tensor:
    """Signs as 8-bit integers: 2 where `is_positive` (bool), else 0, a quarter of the memory that
    floats take.
    """
    return (
        is_positive.to(torch.uint8) * 2
        if torch.compiler.is_compiling()
        else is_positive.view(torch.uint8).mul_(2)
    )


@torch.library.custom_op("rbnn::sign_convolution", mutates_args=())
def sign_convolution(
    bx: Tensor, bw: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """conv2d of signs, zero padding: bx (N, I, H, W) -1 and +1 as floats, or `encoded`; bw (O, I,
    kh, kw) -1 and +1.

    Exact, in bw's dtype. Not differentiable.
    """
    if bx.dtype == torch.uint8:
        return _integer_convolution(bx, bw, list(stride), list(padding))
    with torch.autocast(bx.device.type, enabled=False):
        if bx.device.type == "cuda" and bx.dtype == torch.float32:
            deterministic = torch.are_deterministic_algorithms_enabled()
            return torch.cudnn_convolution(
                bx, bw, padding, stride, [1, 1], 1, False, deterministic, True
            )
        return F.conv2d(bx, bw, None, stride, padding)


def _integer_convolution(bx: Tensor, bw: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    packed, ones = prepacked(bw, stride, padding, bx.shape), torch.ones(len(bw))
    return sign_sums(bx, packed, ones, stride, padding)


def prepacked(bw: Tensor, stride: list[int], padding: list[int], x_shape: Sequence[int]) -> Tensor:
    """bw (O, I, kh, kw), -1 and +1, as `sign_sums` takes it; x_shape: of the images it is for
    first, others may follow.
    """
    return torch.ops.onednn.qconv_prepack(
        bw.to(torch.int8), torch.ones(len(bw)), 1.0, ZERO_POINT, stride, padding, [1, 1], 1,
        list(x_shape),
    )  # fmt: skip


def sign_sums(
    bx: Tensor, packed: Tensor, scales: Tensor, stride: list[int], padding: list[int]
) -> Tensor:
    """`sign_convolution` of `encoded` activations with `prepacked` weights, float32, each filter's
    sums times its scale.
    """
    zeros = torch.zeros(len(scales), dtype=torch.int8)
    return torch.ops.onednn.qconv_pointwise(
        bx, 1.0, ZERO_POINT, packed, scales, zeros, None, stride, padding, [1, 1], 1,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip


@sign_convolution.register_fake
def _(bx: Tensor, bw: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    y = F.conv2d(bx.to(bw.dtype), bw, None, stride, padding)
    return y.to(memory_format=torch.channels_last) if bx.dtype == torch.uint8 else y


def pieces(x: Tensor) -> Tensor:
    """x (N, C, H, W) float32 -> (N, 2 C, H, W): x rounded to TF32, and what that left of it."""
    bits = x.view(torch.int32) + (1 << (TF32_DROPS - 1))
    rounded = (bits & -(1 << TF32_DROPS)).view(torch.float32)
    return torch.cat([rounded, x - rounded], 1)


@torch.library.custom_op("rbnn::sign_convolution_backward", mutates_args=())
def sign_convolution_backward(
    grad: Tensor, bx: Tensor, bw: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """conv2d's gradients by bx and by bw for that of its result, on CUDA from TF32 inputs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        return _convolution_backward(grad, bx, bw, stride, padding)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@sign_convolution_backward.register_fake
def _convolution_backward(
    grad: Tensor, bx: Tensor, bw: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor]:
    grad_bx, grad_bw, _ = torch.ops.aten.convolution_backward(
        grad, bx, bw, None, stride, padding, [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return grad_bx, grad_bw
