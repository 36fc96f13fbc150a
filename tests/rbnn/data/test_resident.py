"""Images in memory: augmented as torchvision does it, the same on either device, and never copied
as a whole.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator

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

CPU = torch.device("cpu")
SIZE = 32
NUM_PLACES = 2 * PADDING + 1
HAS_DALI = (
    importlib.util.find_spec("nvidia") is not None
    and importlib.util.find_spec("nvidia.dali") is not None
)


def numbered_image() -> Tensor:
    """(3, 32, 32) uint8: its rows, its columns and nothing, numbered from 1, so that a crop tells
    where it was taken.
    """
    numbers = torch.arange(1, SIZE + 1, dtype=torch.uint8)
    return torch.stack(
        [
            numbers[:, None].expand(SIZE, SIZE),
            numbers.expand(SIZE, SIZE),
            torch.zeros(SIZE, SIZE).byte(),
        ]
    )


def place(crop: Tensor) -> tuple[int, int, bool]:
    """(offset down, offset right, mirrored) of a crop of the padded numbered image."""
    row, column, next_column = (
        int(crop[where]) for where in ((0, 16, 16), (1, 16, 16), (1, 16, 17))
    )
    is_mirrored = next_column < column
    return row - 17 + PADDING, (column - 16 if is_mirrored else column - 17) + PADDING, is_mirrored


def test_crops_and_flips_have_the_distribution_of_torchvisions() -> None:
    num, spec = 16_200, dataset_spec("cifar10")
    split = Split(
        np.broadcast_to(numbered_image().numpy(), (num, 3, SIZE, SIZE)),
        np.zeros(num, dtype=np.int64),
    )
    train, _ = resident.loaders(Recipe(dataset="cifar10"), split, split, CPU, World())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    pixels = (((images * std + mean) * 255).round() for images, _ in train.epoch(0))
    ours = Counter(place(image) for batch in pixels for image in batch)
    augment = transforms.Compose(
        [transforms.RandomCrop(SIZE, PADDING), transforms.RandomHorizontalFlip()]
    )
    theirs = Counter(place(augment(numbered_image())) for _ in range(num // 2))
    cells = [
        (down, right, flip)
        for down in range(NUM_PLACES)
        for right in range(NUM_PLACES)
        for flip in (False, True)
    ]
    assert ours.keys() == theirs.keys() == set(cells)
    counts = np.array([[ours[cell], theirs[cell]] for cell in cells], dtype=float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    # Chi-squared of 161 degrees of freedom: 161 on average, above 222 in one of a thousand draws.
    assert ((counts - expected) ** 2 / expected).sum() < 222
    assert ((counts[:, 0] - num / len(cells)) ** 2 / (num / len(cells))).sum() < 222


def test_the_windows_of_a_gpu_are_those_of_a_cpu() -> None:
    images = torch.randint(256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    index, offsets, flip = (
        torch.tensor([4, 0, 0, 2]),
        torch.tensor([[0, 8, 4, 3], [8, 1, 4, 0]]),
        torch.tensor([0, 1, 0, 1]) > 0,
    )
    on_gpu = resident.windows(F.pad(images, [PADDING] * 4), index, offsets, flip)
    split = Split(images.numpy(), np.zeros(5, dtype=np.int64))
    assert torch.equal(resident.windows_on_cpu(split, index, offsets, flip), on_gpu)
    assert torch.equal(on_gpu[2], images[0])


def test_a_part_of_a_data_set_is_no_copy_of_it() -> None:
    whole = digits.read().train
    part = whole.subset(np.array([5, 3, 900])).subset(np.array([2, 0]))
    assert part.images is whole.images
    assert np.array_equal(part.at(np.array([1, 0])), whole.array[[5, 900]]) and np.array_equal(
        part.array, whole.array[[900, 5]]
    )
    assert np.array_equal(part.labels, whole.labels[[900, 5]])


@pytest.fixture
def locked() -> Iterator[Source]:
    """The digits as they come out of shared memory, read-only, in use in place of those that this
    process would read.
    """
    source = digits.read()
    arrays = [
        array.copy()
        for split in (source.train, source.val)
        for array in (split.array, split.labels)
    ]
    for array in arrays:
        array.setflags(write=False)
    shared = Source(
        Split(arrays[0], arrays[1]), Split(arrays[2], arrays[3]), source.classes, source.fingerprint
    )
    use_source("digits", "shared", shared)
    yield shared
    del data._sources["digits", "shared"]


@pytest.mark.parametrize("held_out", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["resident", "torchvision", "dali"])
def test_a_data_set_in_shared_memory_is_used_in_place_of_reading_it(
    kind: str, held_out: float, locked: Source
) -> None:
    if kind == "dali" and not HAS_DALI:
        pytest.skip("NVIDIA DALI is not installed")
    how = {"use_dali": True} if kind == "dali" else {"loader": kind}
    ours, own = (
        open_loaders(
            Recipe(dataset="digits", data_path=path, val_fraction=held_out, workers=0, **how), CPU
        )
        for path in ("shared", "own")
    )
    assert ours.info == own.info
    for one, other in ((ours.train.epoch(0), own.train.epoch(0)), (ours.val, own.val)):
        for (images, labels), (others, other_labels) in zip(one, other, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)
