"""sign(.) with the surrogate gradients of RBNN (paper section 3.3, eqs. 12 to 14), and how t and k reach the layers.

v: the value that is binarised. t, k: the surrogate's range and peak, schedules.surrogate_tk gives them by epoch.
    forward   sign(v) in {-1, +1}, sign(0) = +1
    backward  g * max(0, k * (sqrt(2) * t - t^2 * |v|)): a triangle of height k * sqrt(2) * t and half width sqrt(2) / t
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SQRT2 = math.sqrt(2.0)
# The reference computes the activations' peak in float32 while t <= 1. Kept in float64 too: the 2e-8 between the two flips a
# few signs in the second step of a 224 x 224 network, after which logits no longer compare.
ACTIVATION_PEAK = 1.41421353816986083984375


def sign(v: Tensor) -> Tensor:
    """+1 where v >= 0 (and at -0.0), else -1, in v's dtype and shape. Not differentiable."""
    return torch.copysign(v.new_ones(()), v + 0.0)


def surrogate_gradient(grad: Tensor, v: Tensor, peak: Tensor, slope: Tensor) -> Tensor:
    """grad * max(0, peak - slope * |v|), elementwise; peak and slope broadcast to v (0-dim, or one per row)."""
    return v.abs().mul_(-slope).add_(peak).clamp_min_(0).mul_(grad)


def standardized(x: Tensor) -> tuple[Tensor, Tensor]:
    """(z, scale) of x (rows, n): z = (x - mean) * scale; scale (rows, 1) is 1 / std (n - 1), 0 where a row is constant.

    Constant to rounding: std <= 4 eps |mean|. z is then +0, never -0, so that its sign is +1. A row of one value is constant.
    The mean and a norm, as torch.var_mean takes 10 times as long on a CPU.
    """
    mean = x.mean(1, keepdim=True)
    centred = x - mean
    std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(max(x.shape[1] - 1, 1))
    constant = std <= 4 * torch.finfo(std.dtype).eps * mean.abs()
    scale = torch.where(constant, 0.0, 1.0 / std.masked_fill(constant, 1.0))
    return torch.addcmul(centred.new_zeros(()), centred, scale, out=centred), scale


def standardize_backward(grad: Tensor, z: Tensor) -> Tensor:
    """g - mean(g) - z * sum(g z) / (n - 1) per row, g and z (rows, n): the gradient through z = (x - mean) / std, times std.

    It is linear in g, so a caller scales g by 1 / std where that costs nothing.
    """
    projection = (grad * z).sum(1, keepdim=True) / -max(z.shape[1] - 1, 1)
    return torch.addcmul(grad, z, projection).sub_(grad.mean(1, keepdim=True))


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        z, scale = standardized(x)
        ctx.save_for_backward(z, scale)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        z, scale = ctx.saved_tensors
        return standardize_backward(grads[0], z).mul_(scale)


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
    """Standardise and sign in one step: forward keeps the standardised values and one scale per sample, nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor) -> Tensor:
        z, scale = standardized(x)
        ctx.save_for_backward(z, scale, t)
        return torch.copysign(z.new_ones(()), z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        z, scale, t = ctx.saved_tensors
        peak = torch.where(t > 1, SQRT2 * t, ACTIVATION_PEAK)
        grad = surrogate_gradient(grads[0], z, peak * scale, t.clamp_min(1.0).square() * scale)
        return standardize_backward(grad, z), None


def standardize(x: Tensor) -> Tensor:
    """(x - mean) / std over everything but the first axis, unbiased std (n - 1); a constant row gives zeros.

    x (N, ...) floating; returns the same shape. Differentiable, the gradient of a constant row being 0.
    """
    return _Standardize.apply(x.flatten(1)).view(x.shape)


def binarize_weight(v: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """sign(v), any shape; backward g * max(0, k * (sqrt(2) * t - t^2 * |v|)) (eq. 13). t, k 0-dim tensors of v's dtype."""
    return _BinarizeWeight.apply(v, t, k)


def binarize_activation(x: Tensor, t: Tensor) -> Tensor:
    """sign(standardize(x)) for x (N, I, H, W); backward as for weights with k = 1 and t replaced by max(t, 1) (eq. 14)."""
    return _BinarizeActivation.apply(x.flatten(1), t).view(x.shape)


@torch.no_grad()
def set_surrogate(model: nn.Module, t: float, k: float) -> None:
    """Hand t and k (dimensionless, > 0) to every rotated layer of `model`, in place: nothing is rebuilt or recompiled."""
    for module in model.modules():
        if hasattr(module, "update_rotation"):
            module.get_buffer("t").fill_(t)
            module.get_buffer("k").fill_(k)
