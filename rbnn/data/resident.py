"""Images held in memory as uint8 on the run's device; cropped, flipped and normalised there, a
batch at a time.

On a CPU they are the data set's own array, which the trials of a sweep share (see
`rbnn.data.use_source`): nothing of it is copied but the batch.

Augmentation draws come from (seed, epoch) for the whole epoch by position in its order: they do not
depend on the number of ranks, threads or batches read before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rbnn.data.augment import PADDING, shift_draws
from rbnn.data.loading import Batch, Drawn, epoch_positions
from rbnn.data.source import Split
from rbnn.datasets import DatasetSpec, dataset_spec
from rbnn.distributed import World
from rbnn.recipe import Recipe

# Images of an evaluation batch on a GPU: 4 equal ones of CIFAR's 10,000. They need 4 GB where
# resnet18's widest activations live; what is counted does not depend on it.
DEVICE_BATCH = 2500


class Normalize:
    """uint8 (N, 3, S, S) -> float32 (x / 255 - mean) / std per channel, on the images' device."""

    def __init__(self, spec: DatasetSpec, device: torch.device) -> None:
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        self.scale = 1 / (255 * std)
        self.shift = -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return torch.addcmul(self.shift, images.float(), self.scale)
        # NumPy: 0.4 ms for 256 x 3 x 32 x 32; torch's threads bring nothing here and 10 ms where
        # other trials use the cores.
        values = np.empty(images.shape, np.float32)
        self.write(images.numpy(), values)
        return torch.from_numpy(values)

    def write(self, images: NDArray[np.uint8], to: NDArray[np.float32]) -> None:
        """Images (N, 3, S, S), or one (3, S, S), normalised into an array of that shape, on the
        CPU.
        """
        np.multiply(images, self.scale.numpy()[0], out=to)
        to += self.shift.numpy()[0]


class ResidentTrain:
    """Random crop with zero padding 4 and random horizontal flip, or, with augmentation "none", the
    images as they are.
    """

    def __init__(
        self, split: Split, recipe: Recipe, spec: DatasetSpec, device: torch.device, world: World
    ) -> None:
        self.split = split
        self.labels = torch.tensor(split.labels, device=device)
        self.seed = recipe.seed
        self.augmentation = spec.augmentation
        self.normalize = Normalize(spec, device)
        self.padded = (
            None
            if device.type == "cpu"
            else F.pad(torch.tensor(split.array, device=device), [PADDING] * 4)
        )
        self.slices = epoch_positions(len(split), recipe.batch_size, world)
        self.num_batches = len(self.slices)
        self.num_images = sum(s.stop - s.start for s in self.slices)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch | Drawn]:
        order, offsets, flip = shift_draws(self.augmentation, self.seed, epoch, len(self.split))
        if self.padded is not None:
            rows = torch.stack([order, *offsets, flip]).to(self.labels.device)
            for part in self.slices[start:]:
                yield Drawn(rows[:, part], self.made)
            return
        for part in self.slices[start:]:
            index = order[part]
            if self.augmentation == "none":
                images = torch.from_numpy(self.split.at(index.numpy()))
            else:
                images = windows_on_cpu(self.split, index, offsets[:, part], flip[part])
            yield self.normalize(images), self.labels[index]

    def made(self, rows: Tensor) -> Batch:
        """The batch of `rows` (4, N) on a GPU: index, offset down and right, whether it is
        mirrored.
        """
        assert self.padded is not None
        images = windows(self.padded, rows[0], rows[1:3], rows[3].bool())
        return self.normalize(images), self.labels[rows[0]]


def windows(padded: Tensor, index: Tensor, offsets: Tensor, flip: Tensor) -> Tensor:
    """Windows of the images at `index` (N,), `offsets` (2, N) down and right, mirrored where `flip`
    (N,).
    """
    size = padded.shape[-1] - 2 * PADDING
    images = padded.unfold(2, size, 1).unfold(3, size, 1)[index, :, offsets[0], offsets[1]]
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def windows_on_cpu(split: Split, index: Tensor, offsets: Tensor, flip: Tensor) -> Tensor:
    """`windows` of a split that is not padded: what lies outside an image stays zero.

    188,000 images a second of a core's time; gathering from a padded copy of the data set took
    235,000, and 240 MB a trial.
    """
    images, rows = split.array_and_rows(index.numpy())
    size = images.shape[-1]
    taken = np.zeros((len(rows), *images.shape[1:]), dtype=np.uint8)
    draws = zip(rows.tolist(), *(offsets - PADDING).tolist(), flip.tolist(), strict=True)
    for out, (row, down, right, is_mirrored) in zip(taken, draws, strict=True):
        top, bottom = max(0, -down), min(size, size - down)
        left, end = max(0, -right), min(size, size - right)
        if is_mirrored:
            out = out[:, :, ::-1]
        out[:, top:bottom, left:end] = images[
            row, :, top + down : bottom + down, left + right : end + right
        ]
    return torch.from_numpy(taken)


class ResidentEval:
    """This rank's share of the images (every size-th one), in order, normalised."""

    def __init__(
        self, split: Split, recipe: Recipe, spec: DatasetSpec, device: torch.device, world: World
    ) -> None:
        self.share = split.subset(np.arange(world.rank, len(split), world.size))
        self.rows = np.arange(len(self.share))
        self.labels = torch.tensor(self.share.labels, device=device)
        self.images = (
            None if device.type == "cpu" else torch.tensor(self.share.array, device=device)
        )
        self.batch_size = max(1, recipe.batch_size_test // world.size)
        if self.images is not None and self.batch_size < DEVICE_BATCH:
            num_batches = max(1, -(-len(self.share) // DEVICE_BATCH))
            self.batch_size = max(1, -(-len(self.share) // num_batches))
        self.normalize = Normalize(spec, device)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.share), self.batch_size):
            part = slice(start, start + self.batch_size)
            images = (
                torch.from_numpy(self.share.at(self.rows[part]))
                if self.images is None
                else self.images[part]
            )
            yield self.normalize(images), self.labels[part]


def loaders(
    recipe: Recipe, train: Split, val: Split, device: torch.device, world: World
) -> tuple[ResidentTrain, ResidentEval]:
    """Training and validation loaders of one rank, of a data set in memory."""
    spec = dataset_spec(recipe.dataset)
    return ResidentTrain(train, recipe, spec, device, world), ResidentEval(
        val, recipe, spec, device, world
    )
