"""The packed network's own layers: a convolution whose weights are bits, and what is left of batch
normalisation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import row_axes, row_statistics, scaled
from rbnn.convolution import encoded, prepacked, sign_convolution, sign_sums, takes_integers

FLOAT_EPS = torch.finfo(torch.float32).eps


class BinaryConv2d(nn.Module):
    """Sums of a convolution with weights of -1 and +1: x (N, I, H, W) -> y (N, O, H', W').

    y = conv2d(sign(x - mean), w), exact whole numbers, mean over each sample; with `a32`
    conv2d((x - mean) / std, w). What training computes after that (alpha, batch normalisation) is
    the `Affine` that follows. A constant sample gives sign +1, or 0 with a32, as in training.

    bits (O * I * k * k / 8, rounded up) uint8: the weights in order (O, I, kh, kw), the first in
    the lowest bit, 1 for +1.
    """

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
            return F.conv2d(scaled(centred, scale), w, None, self.stride, self.padding)
        # The mean of a constant sample may come out above it.
        axes = row_axes(x)
        is_positive = x >= torch.minimum(x.mean(axes, keepdim=True), x.amax(axes, keepdim=True))
        if takes_integers(x):
            return sign_sums(encoded(is_positive), w, self.shape[0], self.stride, self.padding)
        bx = torch.where(is_positive, 1.0, -1.0).to(x.dtype)
        return sign_convolution(bx, w, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"{self.shape}, stride={self.stride}, padding={self.padding}, a32={self.a32}"


class Affine(nn.Module):
    """x (N, C, H, W) -> x * scale + shift per channel: alpha and batch normalisation in one."""

    scale: Tensor
    shift: Tensor

    def __init__(self, num_features: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(num_features, device=device))
        self.register_buffer("shift", torch.zeros(num_features, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])
