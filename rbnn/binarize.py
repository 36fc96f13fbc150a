"""sign(.) with the surrogate gradients of RBNN (paper section 3.3, eqs. 12 to 14), and how t and k
reach the layers.

v: the value that is binarised. t, k: the surrogate's range and peak, which
schedules.surrogate_tk gives by epoch.
    forward   sign(v) in {-1, +1}, sign(0) = +1
    backward  g * max(0, k * (sqrt(2) * t - t^2 * |v|)):
              a triangle of height k * sqrt(2) * t and half width sqrt(2) / t
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SQRT2 = math.sqrt(2.0)
# The reference computes the activations' peak in float32 while t <= 1. Kept in float64 too: the
# 2e-8 between the two flips a few signs in the second step of a 224 x 224 network, after which
# logits no longer compare.
ACTIVATION_PEAK = 1.41421353816986083984375


def sign(v: Tensor) -> Tensor:
    """+1 where v >= 0 (and at -0.0), else -1, in v's dtype and shape. Not differentiable."""
    if torch.compiler.is_compiling():
        return in_dtype(torch.where(v >= 0, 1.0, -1.0), v.dtype)
    return torch.copysign(v.new_ones(()), v + 0.0)


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in that dtype, itself where it has it already.

    torch 2.11 compiles a Function whose forward ends in a conversion to the dtype that is there
    already without its backward: every gradient behind it is then zero, without a word.
    """
    return x if x.dtype == dtype else x.to(dtype)


def surrogate_gradient(grad: Tensor, v: Tensor, peak: Tensor, slope: Tensor) -> Tensor:
    """grad * max(0, peak - slope * |v|), elementwise; peak and slope broadcast to v (0-dim, or one
    per row).
    """
    if torch.compiler.is_compiling():
        return grad * (peak - slope * v.abs()).clamp_min(0)
    height = v.abs()
    return torch.addcmul(peak, height, -slope, out=height).clamp_min_(0).mul_(grad)


def row_axes(x: Tensor) -> tuple[int, ...]:
    """All axes of x but the first, whatever its memory format: flattening a channels-last tensor
    would copy it.
    """
    return tuple(range(1, x.ndim))


def row_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, scale, x - mean) over everything but the first axis of x (N, ...); mean and scale (N,
    1, ...).

    scale is 1 / std (n - 1), 0 where a row is constant to rounding: std <= 4 eps |mean|. A row of
    one value is constant. On a CPU the mean and a norm, as torch.var_mean takes 10 times as long.
    """
    axes, num = row_axes(x), x[0].numel()
    if x.is_cuda:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        centred, std = x - mean, torch.sqrt(variance * (num / max(num - 1, 1)))
    else:
        mean = x.mean(axes, keepdim=True)
        centred = x - mean
        std = torch.linalg.vector_norm(centred, dim=axes, keepdim=True) / math.sqrt(max(num - 1, 1))
    constant = std <= 4 * torch.finfo(std.dtype).eps * mean.abs()
    scale = (1.0 / std.masked_fill(constant, 1.0)).masked_fill(constant, 0.0)
    return mean, scale, centred


def scaled(centred: Tensor, scale: Tensor) -> Tensor:
    """centred * scale, overwriting `centred`; in eager mode a constant row gives +0, never -0, as
    `sign_of_scaled` needs it.
    """
    if torch.compiler.is_compiling():
        return centred * scale
    return torch.addcmul(centred.new_zeros(()), centred, scale, out=centred)


def standardize_backward(grad: Tensor, z: Tensor) -> Tensor:
    """g - mean(g) - z * sum(g z) / (n - 1) per row, g and z (N, ...): the gradient through z = (x -
    mean) / std, times std.

    It is linear in g, so a caller scales g by 1 / std where that costs nothing. Overwrites `grad`.
    """
    axes, num = row_axes(z), z[0].numel()
    projection = (grad * z).sum(axes, keepdim=True) / -max(num - 1, 1)
    mean = grad.mean(axes, keepdim=True)
    if torch.compiler.is_compiling():
        return grad - mean + z * projection
    return torch.addcmul(grad, z, projection, out=grad).sub_(mean)


def activation_backward(grad: Tensor, z: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    """The gradient of x where z = standardize(x), scale = 1 / std, and `grad` is that of sign(z)
    (eq. 14).
    """
    peak = (SQRT2 * t).masked_fill(t <= 1, ACTIVATION_PEAK)
    return standardize_backward(
        surrogate_gradient(grad, z, peak * scale, t.clamp_min(1.0).square() * scale), z
    )


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        _, scale, centred = row_statistics(x)
        z = scaled(centred, scale)
        ctx.save_for_backward(z, scale)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        z, scale = ctx.saved_tensors
        return standardize_backward(grads[0] * scale, z)


class _BinarizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(v, t, k)
        return sign(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        v, t, k = ctx.saved_tensors
        return surrogate_gradient(grads[0], v, k * SQRT2 * t, k * t * t), None, None


class _BinarizeActivation(torch.autograd.Function):
    """Standardise and sign in one step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor) -> Tensor:
        _, scale, centred = row_statistics(x)
        z = scaled(centred, scale)
        ctx.save_for_backward(z, scale, t)
        return sign_of_scaled(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return activation_backward(grads[0], *ctx.saved_tensors), None


def sign_of_scaled(z: Tensor) -> Tensor:
    """sign(z) for z as `scaled` gives it: one pass, as it holds no -0.0."""
    if torch.compiler.is_compiling():
        return sign(z)
    return torch.copysign(z.new_ones(()), z)


def standardize(x: Tensor) -> Tensor:
    """(x - mean) / std over everything but the first axis, unbiased std (n - 1); a constant row
    gives zeros.

    x (N, ...) floating; returns the same shape. Differentiable, the gradient of a constant row
    being 0.
    """
    return _Standardize.apply(x)


def binarize_weight(v: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """sign(v), any shape; backward g * max(0, k * (sqrt(2) * t - t^2 * |v|)) (eq. 13). t, k 0-dim
    tensors of v's dtype.
    """
    return _BinarizeWeight.apply(v, t, k)


def binarize_activation(x: Tensor, t: Tensor) -> Tensor:
    """sign(standardize(x)) for x (N, I, H, W); backward as for weights with k = 1 and t replaced by
    max(t, 1) (eq. 14).
    """
    return _BinarizeActivation.apply(x, t)


@torch.no_grad()
def set_surrogate(model: nn.Module, t: float, k: float) -> None:
    """Hand t and k (dimensionless, > 0) to every rotated layer of `model`, in place: nothing is
    rebuilt or recompiled.
    """
    for module in model.modules():
        if hasattr(module, "update_rotation"):
            module.get_buffer("t").fill_(t)
            module.get_buffer("k").fill_(k)
