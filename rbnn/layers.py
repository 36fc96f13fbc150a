"""The rotated binary convolution (paper section 3; the authors' released numerics where the two differ).

w (O, I, kh, kw) latent weight; w2 its filters standardised; R1 (a, a), R2 (b, b) the rotation; beta (O, 1, 1, 1) the learned
angle of the mix (`rotate` in a state dict); alpha (O, 1, 1) the learned scaling factor; t, k the surrogate's parameters.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import binarize_activation, binarize_weight, standardize
from rbnn.rotation import bi_rotation_update, factor_pair, random_orthogonal, rotate

Semantics = Literal["reference", "through_rotation"]


class RotatedConv2d(nn.Conv2d):
    """Convolution with 1-bit weights, and 1-bit activations unless `a32`; square kernel, zero padding, no bias.

    Forward, x (N, I, H, W): y = conv2d(sign(x2), sign(w3)) * alpha, with x2 standardised per sample, w2 per filter, and
    w3 = w2 + |sin beta| * (R1^T w2 R2 - w2). Backward: `rbnn.binarize`; into w2 through w3 with factor 1 - |sin beta|.
    `semantics`: "reference" stops the gradient at the rotated weight, as the authors' code does; "through_rotation"
    lets it pass, as the paper's equations do.

    R1 and R2 start Haar-random from torch's global generator, beta at pi/2, alpha at mean |w| of each filter of the
    default initialisation. They change only by `update_rotation`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        a32: bool = False,
        semantics: Semantics = "reference",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.a32 = a32
        self.semantics = semantics
        a, b = factor_pair(self.weight[0].numel())
        self.alpha = nn.Parameter(self.weight.detach().abs().mean((1, 2, 3)).view(-1, 1, 1))
        self.rotate = nn.Parameter(torch.full((out_channels, 1, 1, 1), math.pi / 2))
        self.R1: Tensor
        self.R2: Tensor
        self.t: Tensor
        self.k: Tensor
        self.register_buffer("R1", random_orthogonal(a))
        self.register_buffer("R2", random_orthogonal(b))
        self.register_buffer("t", torch.ones(()), persistent=False)
        self.register_buffer("k", torch.ones(()), persistent=False)
        self._frozen_weight: Tensor | None = None

    def _as_matrices(self, w: Tensor) -> Tensor:
        return w.view(len(w), len(self.R1), len(self.R2))

    def mixed_weight(self) -> Tensor:
        """w3 (O, I, kh, kw): the standardised weight moved towards its rotation by |sin beta|; its sign is the weight used."""
        w2 = standardize(self.weight)
        rotated = rotate(self._as_matrices(w2), self.R1, self.R2).view_as(w2)
        if self.semantics == "reference":
            rotated = rotated.detach()
        return w2 + torch.sin(self.rotate).abs() * (rotated - w2)

    def binary_weight(self) -> Tensor:
        """sign(w3) in {-1, +1}, (O, I, kh, kw)."""
        return binarize_weight(self.mixed_weight(), self.t, self.k)

    def forward(self, x: Tensor) -> Tensor:
        bx = standardize(x) if self.a32 else binarize_activation(x, self.t)
        bw = self.binary_weight() if self._frozen_weight is None else self._frozen_weight
        return F.conv2d(bx, bw, None, self.stride, self.padding) * self.alpha

    @torch.no_grad()
    def freeze_weight(self, frozen: bool) -> None:
        """Compute the binary weight once and keep it (an evaluation does), or go back to computing it in every forward."""
        self._frozen_weight = self.binary_weight() if frozen else None

    @torch.no_grad()
    def update_rotation(self, rounds: int = 3) -> None:
        """Replace R1 and R2 in place by `rounds` rounds of `rotation.bi_rotation_update` on the standardised weight."""
        X = self._as_matrices(standardize(self.weight))
        R1, R2 = bi_rotation_update(X, self.R1, self.R2, rounds)
        self.R1.copy_(R1)
        self.R2.copy_(R2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a32={self.a32}, semantics={self.semantics}"


def rotated_layers(model: nn.Module) -> dict[str, RotatedConv2d]:
    """Every rotated layer of `model` by its name, in the order of the forward's definition."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RotatedConv2d)}
