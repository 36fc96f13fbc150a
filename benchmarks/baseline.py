"""The baseline: the rotated convolution as its formulas read, in plain autograd operations, nothing
fused or reused.

What a first, correct implementation looks like; every benchmark of the network is a ratio against
it. Same parameters, same results as `rbnn.layers.RotatedConv2d` (tests/benchmarks); constant
filters and samples, whose std is 0, are not provided for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.layers import RotatedConv2d

SQRT2 = math.sqrt(2.0)


class SignSurrogate(torch.autograd.Function):
    """sign(v), +1 at 0; backward g * max(0, k * (sqrt(2) * t - t^2 * |v|)) for any v, and 0-dim t
    and k.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(v, t, k)
        return torch.where(v >= 0, 1.0, -1.0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        v, t, k = ctx.saved_tensors
        surrogate = k * (SQRT2 * t - t**2 * torch.abs(v))
        return grads[0] * torch.clamp(surrogate, min=0), None, None


class UnfusedConv2d(nn.Module):
    """The rotated convolution of `layer`, sharing its parameters and buffers; x (N, I, H, W),
    reference semantics.
    """

    R1: Tensor
    R2: Tensor
    t: Tensor
    k: Tensor

    def __init__(self, layer: RotatedConv2d) -> None:
        super().__init__()
        self.a32, self.stride, self.padding = layer.a32, layer.stride, layer.padding
        self.weight, self.alpha, self.rotate = layer.weight, layer.alpha, layer.rotate
        for name in ("R1", "R2", "t", "k"):
            self.register_buffer(name, getattr(layer, name))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(w2, X): the filters standardised, (O, I, kh, kw), and as matrices, (O, a, b)."""
        w = self.weight
        w2 = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return w2, w2.reshape(len(w), len(self.R1), len(self.R2))

    def forward(self, x: Tensor) -> Tensor:
        w2, X = self.matrices()
        rotated = (self.R1.T @ X @ self.R2).reshape(w2.shape)
        w3 = w2 + torch.abs(torch.sin(self.rotate)) * (rotated.detach() - w2)
        bw = SignSurrogate.apply(w3, self.t, self.k)
        x2 = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        bx = (
            x2
            if self.a32
            else SignSurrogate.apply(x2, torch.clamp(self.t, min=1), torch.ones_like(self.k))
        )
        return F.conv2d(bx, bw, None, self.stride, self.padding) * self.alpha

    @torch.no_grad()
    def update_rotation(self) -> None:
        """Three rounds of B, R1, R2, each sum taken filter by filter."""
        _, X = self.matrices()
        R1, R2 = self.R1.clone(), self.R2.clone()
        for _ in range(3):
            B = [SignSurrogate.apply(R1.T @ X_i @ R2, self.t, self.k) for X_i in X]
            D1, D2 = torch.zeros_like(R1), torch.zeros_like(R2)
            for B_i, X_i in zip(B, X, strict=True):
                D1 += B_i @ R2.T @ X_i.T
            U, _, Vh = torch.linalg.svd(D1)
            R1 = Vh.T @ U.T
            for B_i, X_i in zip(B, X, strict=True):
                D2 += X_i.T @ R1 @ B_i
            U, _, Vh = torch.linalg.svd(D2)
            R2 = U @ Vh
        self.R1.copy_(R1)
        self.R2.copy_(R2)


def unfuse(model: nn.Module) -> nn.Module:
    """`model` itself with an UnfusedConv2d in place of each rotated layer, parameters shared with
    what was there.
    """
    return _replace(model, UnfusedConv2d)


def to_float(model: nn.Module) -> nn.Module:
    """`model` itself with an nn.Conv2d of the same shape in place of each rotated layer: the
    full-precision network.
    """
    return _replace(model, _plain_convolution)


def _plain_convolution(layer: RotatedConv2d) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size[0],
        layer.stride[0],
        int(layer.padding[0]),
        bias=False,
    )


def _replace(model: nn.Module, replacement: Any) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RotatedConv2d):
                setattr(parent, name, replacement(child).to(child.weight))
    return model
