"""The rotated binary convolution (paper section 3; the authors' released numerics where the two
differ).

w (O, I, kh, kw) latent weight; w2 its filters standardised; R1 (a, a), R2 (b, b) the rotation; beta
(O, 1, 1, 1) the learned angle of the mix (`rotate` in a state dict); alpha (O, 1, 1) the learned
scaling factor; t, k the surrogate's parameters.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.binarize import (
    activation_backward,
    binarize_weight,
    in_dtype,
    row_statistics,
    scaled,
    sign_of_scaled,
    standardize,
    standardize_backward,
)
from rbnn.convolution import (
    encoded,
    pieces,
    sign_convolution,
    sign_convolution_backward,
    takes_integers,
)
from rbnn.rotation import bi_rotation_update, factor_pair, random_orthogonal, rotate

Semantics = Literal["reference", "through_rotation"]
TINY = 1e-20  # for an alpha nearer to 0: a gradient times it is still a float32


class _BinaryConvolution(torch.autograd.Function):
    """y = conv2d(sign(z) or, with a32, z; bw) * alpha, z = standardize(x): the activations' side of
    the layer in one step.

    Backward keeps x, which the layer before keeps anyway, and one mean and scale per sample: z and
    its sign are computed again, which costs less than the memory. alpha costs no pass over the
    activations: dy/dalpha is the sum over the weight gradient times bw, and the input gradient is a
    convolution with bw * alpha, or, where a `pair` of bw is given (float32 on CUDA), of the
    gradient times alpha in `pieces`. Under autocast y has x's dtype; statistics and sums are
    float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bw: Tensor,
        alpha: Tensor,
        t: Tensor,
        stride: list[int],
        padding: list[int],
        a32: bool,
        pair: Tensor | None,
    ) -> Tensor:
        wide = x.to(bw.dtype)
        mean, scale, centred = row_statistics(wide)
        ctx.save_for_backward(x, mean, scale, bw, alpha, t, pair)
        ctx.stride, ctx.padding, ctx.a32 = stride, padding, a32
        if a32:
            y = F.conv2d(scaled(centred, scale), bw, None, stride, padding)
        elif takes_integers(wide):
            y = sign_convolution(
                encoded(centred >= torch.where(scale == 0, -math.inf, 0.0)), bw, stride, padding
            )
        else:
            y = sign_convolution(sign_of_scaled(scaled(centred, scale)), bw, stride, padding)
        return in_dtype(y * alpha if torch.compiler.is_compiling() else y.mul_(alpha), x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, bw, alpha, t, pair = ctx.saved_tensors
        z = scaled(x.to(bw.dtype) - mean, scale)
        by_alpha, places = alpha[..., None], (ctx.stride, ctx.padding)
        signs = (z if ctx.a32 else sign_of_scaled(z)).to(x.dtype)
        if pair is not None:
            # Nowhere 0, as the weights' gradient is divided by it.
            factor = torch.where(by_alpha.abs() < TINY, TINY, by_alpha)
            in_pieces = pieces(grads[0] * factor[:, 0])
            grad_bx, parts = sign_convolution_backward(in_pieces, signs, pair, *places)
            grad_bw = (parts[: len(bw)] + parts[len(bw) :]) / factor
        else:
            grad_bx, grad_bw, _ = torch.ops.aten.convolution_backward(
                grads[0],
                signs,
                (bw * by_alpha).to(x.dtype),
                None,
                *places,
                [1, 1],
                False,
                [0, 0],
                1,
                [ctx.needs_input_grad[0], True, False],
            )
        grad_bw = grad_bw.to(bw.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_z = grad_bx.to(bw.dtype)
            grad_x = (
                standardize_backward(grad_z * scale, z)
                if ctx.a32
                else activation_backward(grad_z, z, scale, t)
            )
            grad_x = grad_x.to(x.dtype)
        grad_alpha = (grad_bw * bw).sum((1, 2, 3)).view_as(alpha)
        return grad_x, grad_bw * by_alpha, grad_alpha, None, None, None, None, None


class RotatedConv2d(nn.Conv2d):
    """Convolution with 1-bit weights, and 1-bit activations unless `a32`; square kernel, zero
    padding, no bias.

    Forward, x (N, I, H, W): y = conv2d(sign(x2), sign(w3)) * alpha, with x2 standardised per
    sample, w2 per filter, and w3 = w2 + |sin beta| * (R1^T w2 R2 - w2). Backward: `rbnn.binarize`;
    into w2 through w3 with factor 1 - |sin beta|. `semantics`: "reference" stops the gradient at
    the rotated weight, as the authors' code does; "through_rotation" lets it pass, as the paper's
    equations do.

    R1 and R2 start Haar-random from torch's global generator, beta at pi/2, alpha at mean |w| of
    each filter of the default initialisation. They change only by `update_rotation`.
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
        self.given_weight: Tensor | None = None
        self.given_pair: Tensor | None = None
        self.by_pieces = False

    def matrices(self) -> Tensor:
        """X (O, a, b): the standardised filters as the rotation takes them."""
        return standardize(self.weight.reshape(len(self.weight), len(self.R1), len(self.R2)))

    def mixed_weight(self) -> Tensor:
        """w3 (O, I, kh, kw): the standardised weight moved towards its rotation by |sin beta|; its
        sign is the weight used. In the weights' own precision, whatever autocast says: rounded
        products turn signs.
        """
        X = self.matrices()
        with without_autocast(X.device):
            rotated = rotate(X, self.R1, self.R2)
        if self.semantics == "reference":
            rotated = rotated.detach()
        return (X + torch.sin(self.rotate[..., 0]).abs() * (rotated - X)).view(self.weight.shape)

    def binary_weight(self) -> Tensor:
        """sign(w3) in {-1, +1}, (O, I, kh, kw)."""
        return binarize_weight(self.mixed_weight(), self.t, self.k)

    def forward(self, x: Tensor) -> Tensor:
        bw = self.binary_weight() if self.given_weight is None else self.given_weight
        pair = None
        if self.by_pieces:
            pair = torch.cat([bw, bw]).detach() if self.given_pair is None else self.given_pair
        stride, padding = list(self.stride), [int(p) for p in self.padding]
        how = stride, padding, self.a32, pair
        return _BinaryConvolution.apply(x, bw, self.alpha, self.t, *how)

    def update_rotation(self, rounds: int = 3) -> None:
        """Replace R1 and R2 in place by `rounds` rounds of `rotation.bi_rotation_update` on the
        standardised weight.
        """
        found = bi_rotation_update(self.matrices().detach(), self.R1, self.R2, rounds)
        for own, new in zip((self.R1, self.R2), found, strict=True):
            own.copy_(new)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a32={self.a32}, semantics={self.semantics}"


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, products keep their operands' dtype (the meta device knows no autocast)."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def channels_last(images: Tensor) -> Tensor:
    """The images in the memory format that the layers are fastest in; what follows a convolution
    keeps it.
    """
    return images.to(memory_format=torch.channels_last)


def rotated_layers(model: nn.Module) -> dict[str, RotatedConv2d]:
    """Every rotated layer of `model` by its name, in the order of the forward's definition."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, RotatedConv2d)
    }
