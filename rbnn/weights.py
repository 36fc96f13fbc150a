"""The weight side of all rotated layers of a network: their mixed and binary weights, and their
rotation update.

On a GPU a launch costs more than the small products it starts: the layers of one shape are one
batch. On a CPU they gain nothing from company, and each computes its own.

X (L, O, a, b): the standardised filters of L layers of one shape; R1 (L, a, a), R2 (L, b, b): their
rotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rbnn.binarize import binarize_weight, standardize
from rbnn.layers import RotatedConv2d, without_autocast
from rbnn.rotation import Group, bi_rotation_updates, objective, rotate_together

# Weights that one call of the rotation update takes, or that one thread updates alone.
TOGETHER = 1 << 20


def on_gpu(layers: Iterable[RotatedConv2d]) -> bool:
    """Whether the layers' weights lie on a GPU, where a launch costs more than the small products
    it starts.
    """
    return any(layer.weight.is_cuda for layer in layers)


def by_shape(layers: Iterable[RotatedConv2d]) -> list[list[RotatedConv2d]]:
    """The layers, those together whose weights have one shape."""
    shapes: dict[tuple[int, ...], list[RotatedConv2d]] = {}
    for layer in layers:
        shapes.setdefault(tuple(layer.weight.shape), []).append(layer)
    return list(shapes.values())


@contextmanager
def weights_given(layers: Sequence[RotatedConv2d]) -> Iterator[None]:
    """Within it, every layer uses the binary weight that it has on entering; gradients reach the
    latent weights through it.
    """
    if on_gpu(layers):
        for group in by_shape(layers):
            signs = binarize_weight(mixed_together(group), group[0].t, group[0].k)
            signs, pairs = _Paired.apply(signs.view(len(group), *group[0].weight.shape))
            for layer, given, pair in zip(group, signs.unbind(), pairs.unbind(), strict=True):
                layer.given_weight, layer.given_pair = given, pair
    else:
        for layer in layers:
            layer.given_weight = layer.binary_weight()
    try:
        yield
    finally:
        for layer in layers:
            layer.given_weight = layer.given_pair = None


class _Paired(torch.autograd.Function):
    """The binary weights (L, O, I, kh, kw) of layers, and the same twice, (L, 2 O, I, kh, kw):
    channels last, as cuDNN wants them; it would copy each of them twice a step.
    """

    @staticmethod
    def forward(ctx: Any, signs: Tensor) -> tuple[Tensor, Tensor]:
        twice = signs.permute(0, 1, 3, 4, 2)[:, None].expand(-1, 2, -1, -1, -1, -1).contiguous()
        pairs = twice.flatten(1, 2)
        ctx.mark_non_differentiable(pairs)
        return twice[:, 0].permute(0, 1, 4, 2, 3), pairs.permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def mixed_weights(layers: Sequence[RotatedConv2d]) -> list[Tensor]:
    """`mixed_weight` of every layer, in their order."""
    if not on_gpu(layers):
        return [layer.mixed_weight() for layer in layers]
    found = {
        layer: mixed.view(layer.weight.shape)
        for group in by_shape(layers)
        for layer, mixed in zip(group, mixed_together(group).unbind(), strict=True)
    }
    return [found[layer] for layer in layers]


class _Stack(torch.autograd.Function):
    """torch.stack whose gradients lie as the parameters do, or each would be copied for itself."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        return torch.stack(tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0].contiguous().unbind()


def mixed_together(group: Sequence[RotatedConv2d]) -> Tensor:
    """(L, O, a, b): `mixed_weight` of layers of one shape and one `semantics`, as the rotation
    takes them.
    """
    X, R1, R2 = _stacked(group)
    with without_autocast(X.device):
        rotated = rotate_together(X, R1, R2)
    if group[0].semantics == "reference":
        rotated = rotated.detach()
    mix = torch.sin(_Stack.apply(*[layer.rotate for layer in group])[..., 0]).abs()
    return X + mix * (rotated - X)


@torch.no_grad()
def objectives(layers: Sequence[RotatedConv2d]) -> Tensor:
    """sum |R1^T X R2| of every layer's standardised filters, (layers,)."""
    if not on_gpu(layers):
        return torch.stack([objective(layer.matrices(), layer.R1, layer.R2) for layer in layers])
    found: dict[RotatedConv2d, Tensor] = {}
    for group in by_shape(layers):
        sums = rotate_together(*_stacked(group)).abs().sum((1, 2, 3))
        found.update(zip(group, sums, strict=True))
    return torch.stack([found[layer] for layer in layers])


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
    whole = by_shape(layers)
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
        own = [R for group in together for layer in group for R in (layer.R1, layer.R2)]
        new = [R for R1, R2 in updated for pair in zip(R1, R2, strict=True) for R in pair]
        torch._foreach_copy_(own, new)


def _stacked(part: Sequence[RotatedConv2d]) -> Group:
    """What `bi_rotation_updates` takes of layers of one shape; their filters are standardised in
    one call.
    """
    R1, R2 = torch.stack([layer.R1 for layer in part]), torch.stack([layer.R2 for layer in part])
    (a, b), num = (R1.shape[-1], R2.shape[-1]), len(part)
    X = standardize(_Stack.apply(*[layer.weight for layer in part]).view(-1, a, b))
    return X.view(num, -1, a, b), R1, R2
