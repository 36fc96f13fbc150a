"""Whether a form of a package predicts what the trained network predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rbnn.data.loading import Batch
from rbnn.packed.engines import Run
from rbnn.packed.layers import BinaryConv2d

CLOSE = 1e-4  # two largest logits so near to each other may change places
ROUNDING = 2.0**-19  # of a layer's largest activation: sixteen float32 roundings, as of its mean
NUM_PROBES = 64


@dataclass
class Parity:
    """A form beside the reference, the trained network as a rule, in numbers of images.

    differing: with another argmax. of them close: the reference's two largest logits lie within
    CLOSE; rounding: within what `rounding_noise` changes; beyond: neither.
    """

    num_images: int = 0
    num_right: int = 0
    max_difference: float = 0.0
    differing: int = 0
    close: int = 0
    rounding: int = 0

    @property
    def beyond(self) -> int:
        return self.differing - self.close - self.rounding

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.num_right / max(self.num_images, 1)

    def add(
        self, packed: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, ours: Tensor
    ) -> None:
        """Count a batch: logits of the trained network, and of the form."""
        found = ours.argmax(1)
        self.num_images += len(images)
        self.num_right += int((found == labels).sum())
        self.max_difference = max(self.max_difference, float((ours - logits).abs().max()))
        differs = found != logits.argmax(1)
        two = logits.topk(2, 1).values
        gap = two[:, 0] - two[:, 1]
        self.differing += int(differs.sum())
        self.close += int((differs & (gap <= CLOSE)).sum())
        for index in (differs & (gap > CLOSE)).nonzero().flatten().tolist():
            self.rounding += int(gap[index] <= 2 * rounding_noise(packed, images[index]))


def compare(
    runs: Mapping[str, Run],
    reference: str,
    packed: nn.Module,
    batches: Iterable[Batch],
    num_images: int,
) -> dict[str, Parity]:
    """Every one of `runs` beside the reference among them, on the first `num_images` images.

    packed: the network in torch, whose rounding noise is asked for where predictions differ.
    """
    found = {name: Parity() for name in runs}
    for images, labels in batches:
        left = num_images - found[reference].num_images
        if left <= 0:
            break
        images, labels = images[:left], labels[:left]
        logits = {name: run(images) for name, run in runs.items()}
        for name, ours in logits.items():
            found[name].add(packed, images, labels, logits[reference], ours)
    return found


@torch.inference_mode()
def rounding_noise(packed: nn.Module, image: Tensor) -> float:
    """The largest change of the logits of an image (3, S, S) when every binary layer's input moves
    by what rounding may move it: a sign that lies so near to its threshold flips, and a flip moves
    logits far more than a rounding does.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        noise = 2 * torch.rand(inputs[0].shape, generator=generator) - 1
        return inputs[0] + noise * (ROUNDING * float(inputs[0].abs().max()))

    layers = [layer for layer in packed.modules() if isinstance(layer, BinaryConv2d)]
    exact = packed(image[None])
    hooks = [layer.register_forward_pre_hook(moved) for layer in layers]
    try:
        probes = packed(image.expand(NUM_PROBES, -1, -1, -1))
    finally:
        for hook in hooks:
            hook.remove()
    return float((probes - exact).abs().max())
