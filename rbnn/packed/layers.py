"""The packed network's own layers: a convolution whose weights are bits, and what is left of batch
normalisation. Both compute what training's layers do in evaluation, in the same order: a sum that
is rounded otherwise turns signs that lie within rounding of their threshold.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import row_axes, row_statistics, scaled
from rbnn.convolution import encoded, prepacked, sign_convolution, sign_sums, takes_integers

FLOAT_EPS = torch.finfo(torch.float32).eps


class BinaryConv2d(nn.Module):
    """A convolution with weights of -1 and +1: x (N, I, H, W) -> y (N, O, H', W').

    y = conv2d(sign(x - mean), w) * alpha, sums of whole numbers, mean over each sample; with `a32`
    conv2d((x - mean) / std, w) * alpha. A constant sample gives sign +1, or 0 with a32, as in
    training. The exporters leave alpha (O,), which is never negative, to the `Affine` that follows.

    bits (O * I * k * k / 8, rounded up) uint8: the weights in order (O, I, kh, kw), the first in
    the lowest bit, 1 for +1.
    """

    alpha: Tensor
    bits: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        *,
        a32: bool,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.stride, self.padding, self.a32 = [stride, stride], [padding, padding], a32
        self.num_weights = math.prod(self.shape)
        num_bytes = (self.num_weights + 7) // 8
        self.register_buffer("bits", torch.zeros(num_bytes, dtype=torch.uint8, device=device))
        self.register_buffer("alpha", torch.ones(out_channels, device=device))
        self._ready: tuple[tuple[object, ...], Tensor] | None = None

    def weight(self) -> Tensor:
        """w (O, I, kh, kw) float32, -1 and +1."""
        places = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        flat = (self.bits[:, None] >> places & 1).flatten()[: self.num_weights]
        return flat.view(self.shape).to(torch.float32).mul_(2).sub_(1)

    def set_weight(self, w: Tensor) -> None:
        """Pack w, whose values are -1 and +1."""
        flat = F.pad((w > 0).flatten().to(torch.uint8), (0, -w.numel() % 8)).view(-1, 8)
        places = torch.arange(8, dtype=torch.uint8, device=w.device)
        self.bits = (flat << places).sum(1, dtype=torch.uint8)

    def _unpacked(self, x: Tensor) -> Tensor:
        """The weights as this device convolves them, made once for as long as the bits stay."""
        integers = not self.a32 and takes_integers(x)
        key = (self.bits.data_ptr(), self.bits._version, x.device, x.dtype, integers)
        if self._ready is None or self._ready[0] != key:
            w = self.weight().to(x.dtype)
            if integers:
                w = prepacked(w, self.stride, self.padding, x.shape)
            self._ready = key, w
        return self._ready[1]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which cannot hold weights in oneDNN's own format."""
        return {**self.__dict__, "_ready": None}

    def forward(self, x: Tensor) -> Tensor:
        w = self._unpacked(x)
        if self.a32:
            _, scale, centred = row_statistics(x)
            y = F.conv2d(scaled(centred, scale), w, None, self.stride, self.padding)
            return y.mul_(self.alpha[:, None, None])
        # The mean of a constant sample may come out above it.
        axes = row_axes(x)
        is_positive = x >= torch.minimum(x.mean(axes, keepdim=True), x.amax(axes, keepdim=True))
        if takes_integers(x):
            return sign_sums(encoded(is_positive), w, self.alpha, self.stride, self.padding)
        bx = torch.where(is_positive, 1.0, -1.0).to(x.dtype)
        y = sign_convolution(bx, w, self.stride, self.padding)
        return y.mul_(self.alpha[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.shape}, stride={self.stride}, padding={self.padding}, a32={self.a32}"


class Affine(nn.Module):
    """x (N, C, ...) -> x * scale + shift per channel, computed as torch's batch normalisation does.

    conv: the binary convolution before it, whose alpha `folded` takes in.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, conv: BinaryConv2d | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self._of = (conv,)  # no submodule of this one

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = _unit_statistics(len(self.scale), x.dtype, x.device)
        return F.batch_norm(x, mean, variance, self.scale, self.shift, eps=0.0)

    def folded(self) -> Tensor:
        """What the sums of `conv` are multiplied with, where a form has no step for alpha."""
        conv = self._of[0]
        return self.scale if conv is None else (self.scale.double() * conv.alpha).to(self.scale)


@functools.cache
def _unit_statistics(num: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        zeros = torch.zeros(num, dtype=dtype, device=device)
        return zeros, torch.ones_like(zeros)
