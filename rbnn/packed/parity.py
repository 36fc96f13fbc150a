"""Whether a form of a package predicts what the trained network predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rbnn.data.loading import Batch
from rbnn.packed.engines import Run

CLOSE = 1e-4  # two largest logits so near to each other may change places
ONE_ROUNDING = 2.0**-23
NUM_PROBES = 8


@dataclass
class Parity:
    """A form beside the trained network, in numbers of images.

    differing: with another argmax. of them close: the trained network's two largest logits lie
    within CLOSE; rounding: they lie within what one float32 rounding of the pixels changes in the
    trained network's own logits; beyond: neither. num_images = 0: nothing was compared.
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
        self, trained: Run, images: Tensor, labels: Tensor, logits: Tensor, ours: Tensor
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
            noise = rounding_noise(trained, images[index : index + 1], logits[index])
            self.rounding += int(gap[index] <= 2 * noise)


def compare(
    trained: Run, forms: Mapping[str, Run], batches: Iterable[Batch], num_images: int
) -> dict[str, Parity]:
    """The trained network and every form on the first `num_images` images; "trained" is among the
    results.
    """
    found = {name: Parity() for name in ("trained", *forms)}
    for images, labels in batches:
        left = num_images - found["trained"].num_images
        if left <= 0:
            break
        images, labels = images[:left], labels[:left]
        logits = trained(images)
        found["trained"].add(trained, images, labels, logits, logits)
        for name, run in forms.items():
            found[name].add(trained, images, labels, logits, run(images))
    return found


def rounding_noise(trained: Run, image: Tensor, logits: Tensor) -> float:
    """The largest change of the logits (C) of one image (1, 3, S, S) when its pixels move by one
    float32 rounding: a sign that flips moves them far more than a rounding.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.rand(NUM_PROBES, *image.shape[1:], generator=generator) - 0.5
    probes = image * (1 + ONE_ROUNDING * signs.sign())
    return float((trained(probes) - logits).abs().max())
