"""Images in memory: augmented as by torchvision, the same on either device, never copied whole."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from rbnn import data
from rbnn.data import digits, open_loaders, resident, use_source
from rbnn.data.augment import PADDING
from rbnn.data.source import Source, Split
from rbnn.datasets import dataset_spec
from rbnn.distributed import World
from rbnn.recipe import Recipe
from tests.rbnn.small import CPU, KINDS, how

SIZE = 32
NUM_PLACES = 2 * PADDING + 1


def numbered_image() -> Tensor:
    """Its rows, its columns and nothing, numbered from 1: a crop tells where it was taken."""
    numbers = torch.arange(1, SIZE + 1, dtype=torch.uint8).expand(SIZE, SIZE)
    return torch.stack([numbers.T, numbers, torch.zeros_like(numbers)])


def place(crop: Tensor) -> tuple[int, int, bool]:
    """(offset down, offset right, mirrored) of a crop of the padded numbered image."""
    row, column, next_column = crop[0, 16, 16], crop[1, 16, 16], crop[1, 16, 17]
    is_mirrored = bool(next_column < column)
    return int(row) - 17 + PADDING, int(column) - 17 + is_mirrored + PADDING, is_mirrored


def test_crops_and_flips_have_the_distribution_of_torchvisions() -> None:
    num, spec, image = 16_200, dataset_spec("cifar10"), numbered_image()
    split = Split(image.expand(num, -1, -1, -1).numpy(), np.zeros(num, dtype=np.int64))
    train, _ = resident.loaders(Recipe(dataset="cifar10"), split, split, CPU, World())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    pixels = (((images * std + mean) * 255).round() for images, _ in train.epoch(0))
    ours = Counter(place(image) for batch in pixels for image in batch)
    crop, flip = transforms.RandomCrop(SIZE, PADDING), transforms.RandomHorizontalFlip()
    theirs = Counter(place(flip(crop(image))) for _ in range(num // 2))
    cells = [*itertools.product(range(NUM_PLACES), range(NUM_PLACES), (False, True))]
    assert ours.keys() == theirs.keys() == set(cells)
    counts = np.array([[ours[cell], theirs[cell]] for cell in cells], dtype=float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    # Chi-squared of 161 degrees of freedom: 161 on average, above 222 in one of a thousand draws.
    assert ((counts - expected) ** 2 / expected).sum() < 222
    assert ((counts[:, 0] - num / len(cells)) ** 2 / (num / len(cells))).sum() < 222


def test_the_windows_of_a_gpu_are_those_of_a_cpu() -> None:
    images = torch.randint(256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    index, flip = torch.tensor([4, 0, 0, 2]), torch.tensor([0, 1, 0, 1]) > 0
    offsets = torch.tensor([[0, 8, 4, 3], [8, 1, 4, 0]])
    on_gpu = resident.windows(F.pad(images, [PADDING] * 4), index, offsets, flip)
    split = Split(images.numpy(), np.zeros(5, dtype=np.int64))
    assert torch.equal(resident.windows_on_cpu(split, index, offsets, flip), on_gpu)
    assert torch.equal(on_gpu[2], images[0])


def test_a_part_of_a_data_set_is_no_copy_of_it() -> None:
    whole = digits.read().train
    part = whole.subset(np.array([5, 3, 900])).subset(np.array([2, 0]))
    assert part.images is whole.images
    assert np.array_equal(part.at(np.array([1, 0])), whole.array[[5, 900]])
    assert np.array_equal(part.array, whole.array[[900, 5]])
    assert np.array_equal(part.labels, whole.labels[[900, 5]])


def locked(split: Split) -> Split:
    """A split as it comes out of shared memory: read-only."""
    arrays = split.array.copy(), split.labels.copy()
    for array in arrays:
        array.setflags(write=False)
    return Split(*arrays)


@pytest.mark.parametrize("held_out", [0.0, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_in_shared_memory_is_used_in_place_of_reading_it(
    kind: str, held_out: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_sources", {})
    read = digits.read()
    shared = Source(locked(read.train), locked(read.val), read.classes, read.fingerprint)
    use_source("digits", "shared", shared)
    options = {"dataset": "digits", "val_fraction": held_out, "workers": 0, **how(kind)}
    own = open_loaders(Recipe(data_path="own", **options), CPU)
    monkeypatch.setattr(digits, "read", lambda: pytest.fail("the digits were read again"))
    ours = open_loaders(Recipe(data_path="shared", **options), CPU)
    assert ours.info == own.info
    for one, other in ((ours.train.epoch(0), own.train.epoch(0)), (ours.val, own.val)):
        for (images, labels), (others, other_labels) in zip(one, other, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)
