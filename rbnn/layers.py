"""The rotated binary convolution (paper section 3; the authors' released numerics where the two
differ).

w (O, I, kh, kw) latent weight; w2 its filters standardised; R1 (a, a), R2 (b, b) the rotation; beta
(O, 1, 1, 1) the learned angle of the mix (`rotate` in a state dict); alpha (O, 1, 1) the learned
scaling factor; t, k the surrogate's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from rbnn.convolution import encoded, sign_convolution, takes_integers
from rbnn.rotation import Group, bi_rotation_updates, factor_pair, random_orthogonal, rotate

TOGETHER = (
    1 << 20
)  # weights that one call of the rotation update takes, or that one thread updates alone
Semantics = Literal["reference", "through_rotation"]


class _BinaryConvolution(torch.autograd.Function):
    """y = conv2d(sign(z) or, with a32, z; bw) * alpha, z = standardize(x): the activations' side of
    the layer in one step.

    Backward keeps x, which the layer before keeps anyway, and one mean and scale per sample: z and
    its sign are computed again, which costs less than the memory. alpha costs no pass over the
    activations: dy/dalpha is the sum over the weight gradient times bw, and the input gradient is a
    convolution with bw * alpha. Under autocast y has x's dtype; statistics and sums are float32.
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
    ) -> Tensor:
        wide = x.to(bw.dtype)
        mean, scale, centred = row_statistics(wide)
        ctx.save_for_backward(x, mean, scale, bw, alpha, t)
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
        x, mean, scale, bw, alpha, t = ctx.saved_tensors
        z = scaled(x.to(bw.dtype) - mean, scale)
        by_alpha = alpha[..., None]
        grad_bx, grad_bw, _ = torch.ops.aten.convolution_backward(
            grads[0],
            (z if ctx.a32 else sign_of_scaled(z)).to(x.dtype),
            (bw * by_alpha).to(x.dtype),
            None,
            ctx.stride,
            ctx.padding,
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
        return grad_x, grad_bw * by_alpha, grad_alpha, None, None, None, None


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
        self._frozen_weight: Tensor | None = None

    def matrices(self) -> Tensor:
        """X (O, a, b): the standardised filters as the rotation takes them."""
        return standardize(self.weight.reshape(len(self.weight), len(self.R1), len(self.R2)))

    def mixed_weight(self) -> Tensor:
        """w3 (O, I, kh, kw): the standardised weight moved towards its rotation by |sin beta|; its
        sign is the weight used.
        """
        X = self.matrices()
        rotated = rotate(X, self.R1, self.R2)
        if self.semantics == "reference":
            rotated = rotated.detach()
        return (X + torch.sin(self.rotate[..., 0]).abs() * (rotated - X)).view(self.weight.shape)

    def binary_weight(self) -> Tensor:
        """sign(w3) in {-1, +1}, (O, I, kh, kw)."""
        return binarize_weight(self.mixed_weight(), self.t, self.k)

    def forward(self, x: Tensor) -> Tensor:
        bw = self.binary_weight() if self._frozen_weight is None else self._frozen_weight
        stride, padding = list(self.stride), [int(p) for p in self.padding]
        return _BinaryConvolution.apply(x, bw, self.alpha, self.t, stride, padding, self.a32)

    @torch.no_grad()
    def freeze_weight(self, frozen: bool) -> None:
        """Compute the binary weight once and keep it (an evaluation does), or go back to computing
        it in every forward.
        """
        self._frozen_weight = self.binary_weight() if frozen else None

    def update_rotation(self, rounds: int = 3) -> None:
        """Replace R1 and R2 in place by `rounds` rounds of `rotation.bi_rotation_update` on the
        standardised weight.
        """
        update_rotations([self], rounds)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a32={self.a32}, semantics={self.semantics}"


def channels_last(images: Tensor) -> Tensor:
    """The images in the memory format that the layers are fastest in; what follows a convolution
    keeps it.
    """
    return images.to(memory_format=torch.channels_last)


def on_gpu(layers: Iterable[RotatedConv2d]) -> bool:
    """Whether the layers' weights lie on a GPU, where a launch costs more than the small products
    it starts.
    """
    return any(layer.weight.is_cuda for layer in layers)


def _parts(group: list[RotatedConv2d]) -> list[list[RotatedConv2d]]:
    """Layers of one shape, as many together as TOGETHER allows: large ones gain nothing from
    company, and memory hurts.
    """
    size = max(1, TOGETHER // group[0].weight.numel())
    return [group[start : start + size] for start in range(0, len(group), size)]


@torch.no_grad()
def update_rotations(layers: Iterable[RotatedConv2d], rounds: int = 3) -> None:
    """`update_rotation` of every layer; a layer's result does not depend on the others.

    Layers of one shape are one batch. On a GPU all batches take each step together, on a CPU one
    follows the other, on one thread where all layers have TOGETHER weights or fewer.
    """
    shapes: dict[tuple[int, ...], list[RotatedConv2d]] = {}
    for layer in layers:
        shapes.setdefault((len(layer.weight), len(layer.R1), len(layer.R2)), []).append(layer)
    whole = list(shapes.values())
    with one_thread_if(sum(layer.weight.numel() for group in whole for layer in group) <= TOGETHER):
        _update_in_turn(whole, rounds)


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """Within it, small work has one CPU thread: waking others costs more than they bring
    (resnet20's update: 9.8 to 8.5 ms).
    """
    num_threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _update_in_turn(whole: list[list[RotatedConv2d]], rounds: int) -> None:
    """`update_rotations` of layers grouped by shape."""
    in_turn = (
        [whole]
        if on_gpu(group[0] for group in whole)
        else [[part] for group in whole for part in _parts(group)]
    )
    for together in in_turn:
        updated = bi_rotation_updates([_stacked(group) for group in together], rounds)
        for group, found in zip(together, updated, strict=True):
            for layer, R1, R2 in zip(group, *found, strict=True):
                layer.R1.copy_(R1)
                layer.R2.copy_(R2)


def _stacked(part: list[RotatedConv2d]) -> Group:
    """What `bi_rotation_updates` takes of layers of one shape; their filters are standardised in
    one call.
    """
    R1, R2 = torch.stack([layer.R1 for layer in part]), torch.stack([layer.R2 for layer in part])
    (a, b), num = (R1.shape[-1], R2.shape[-1]), len(part)
    X = standardize(torch.cat([layer.weight.reshape(-1, a, b) for layer in part]))
    return X.view(num, -1, a, b), R1, R2


def rotated_layers(model: nn.Module) -> dict[str, RotatedConv2d]:
    """Every rotated layer of `model` by its name, in the order of the forward's definition."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, RotatedConv2d)
    }
