"""What is drawn for each training image, as numbers: every loader applies the same draws, so that
loaders agree.

A draw is a function of (seed, epoch) and of the image; never of ranks, processes, threads, or of
what was read before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbnn.data.loading import derived_generator, derived_seed
from rbnn.datasets import Augmentation
from rbnn.distributed import World

PADDING = 4
MAX_ANGLE = 20.0  # degrees
AREA, ASPECT = (0.08, 1.25), (3 / 4, 4 / 3)
NUM_TRIES = 10  # of a crop window, as torchvision's RandomResizedCrop
EVAL_SHORT_SIDE = 256
FILE_DRAWS = {"rotate_flip": 2, "resized_crop_flip": 2 * NUM_TRIES + 3}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """A batch to be made: which images (N,), and their draws (N, number of draws); none for
    evaluation.

    Draws of images in memory: (offset down, offset right, flip), offsets in 0..2 * PADDING of the
    padded image. Of files: uniform numbers in [0, 1), the last of which is the flip's.
    """

    indices: Ints
    draws: Floats | None = None


def shift_draws(
    augmentation: Augmentation, seed: int, epoch: int, num_images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """An epoch over images in memory: order (N,), offsets (2, N), flips (N,) bool, the last two by
    position in the order.

    With augmentation "none" every offset is PADDING, the image as it is, and nothing is flipped.
    """
    generator = derived_generator("resident", seed, epoch)
    order = torch.randperm(num_images, generator=generator)
    if augmentation == "none":
        return (
            order,
            torch.full((2, num_images), PADDING),
            torch.zeros(num_images, dtype=torch.bool),
        )
    offsets = torch.randint(0, 2 * PADDING + 1, (2, num_images), generator=generator)
    return order, offsets, torch.rand(num_images, generator=generator) < 0.5


def uniforms(seed: int, epoch: int, indices: Ints, num: int) -> Floats:
    """(N, num) numbers in [0, 1), the row of an image a function of (seed, epoch, index):
    SplitMix64 used as a hash.

    G. Steele, D. Lea, C. Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    counters: NDArray[Any] = indices.astype(np.uint64)[:, None] * np.uint64(num) + np.arange(
        1, num + 1, dtype=np.uint64
    )
    z = counters * np.uint64(0x9E3779B97F4A7C15) + np.uint64(derived_seed("augment", seed, epoch))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = (z ^ (z >> np.uint64(31))) >> np.uint64(11)
    return np.asarray(top * 2.0**-53, dtype=np.float64)


def train_requests(
    augmentation: Augmentation, num_images: int, seed: int, epoch: int, slices: list[slice]
) -> Iterator[Request]:
    """The batches of an epoch, one for each of a rank's slices (see `epoch_positions`)."""
    if augmentation in FILE_DRAWS:
        order = torch.randperm(
            num_images, generator=derived_generator("order", seed, epoch)
        ).numpy()
        for part in slices:
            yield Request(order[part], uniforms(seed, epoch, order[part], FILE_DRAWS[augmentation]))
        return
    shuffled, offsets, flip = shift_draws(augmentation, seed, epoch, num_images)
    draws = torch.stack([*offsets, flip], dim=1).double().numpy()
    for part in slices:
        yield Request(shuffled[part].numpy(), draws[part])


def eval_requests(num_images: int, batch_size: int, world: World) -> list[Request]:
    """The evaluation batches of a rank: every size-th image, so that each is on exactly one rank,
    once.
    """
    indices = np.arange(world.rank, num_images, world.size)
    share = max(1, batch_size // world.size)
    return [Request(indices[start : start + share]) for start in range(0, len(indices), share)]


def flips(draws: Floats) -> NDArray[np.bool_]:
    """(N,) whether to mirror, from the draws of files."""
    return draws[:, -1] < 0.5


def angles(draws: Floats) -> Floats:
    """(N,) degrees, counter-clockwise, uniform in [-20, 20)."""
    return (2 * draws[:, 0] - 1) * MAX_ANGLE


def crop_windows(sizes: Ints, draws: Floats) -> Ints:
    """(N, 4) top, left, height, width of a random resized crop of images of `sizes` (N, 2), height
    and width.

    Area a share of the image's in AREA, log-uniform aspect in ASPECT: of ten tries the first that
    fits into the image. An area above 1 never fits, which leaves less than the whole image to most
    tries. Where none fits: the largest centred window of an allowed aspect, as torchvision does.
    """
    height, width = sizes[:, :1], sizes[:, 1:]
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * draws[:, :NUM_TRIES])
    low, high = map(math.log, ASPECT)
    aspect = np.exp(low + (high - low) * draws[:, NUM_TRIES : 2 * NUM_TRIES])
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.argmax(1)[:, None]
    h, w = np.take_along_axis(heights, first, 1), np.take_along_axis(widths, first, 1)
    any_fits = fits.any(1, keepdims=True)
    h = np.where(any_fits, h, np.minimum(height, np.maximum(1, np.rint(width / ASPECT[0]))))
    w = np.where(any_fits, w, np.minimum(width, np.maximum(1, np.rint(height * ASPECT[1]))))
    where = np.where(any_fits, draws[:, 2 * NUM_TRIES : 2 * NUM_TRIES + 2], 0.5)
    top = np.floor(where[:, :1] * (height - h + any_fits))
    left = np.floor(where[:, 1:] * (width - w + any_fits))
    return np.concatenate([top, left, h, w], axis=1).astype(np.int64)


def eval_geometry(sizes: Ints, image_size: int, short_side: int | None) -> tuple[Ints, Ints]:
    """Evaluation of images of `sizes` (N, 2): the size to resize to (N, 2), then top and left of
    the crop (N, 2).

    short_side: of the resized image, before its centre is cut out; none resizes to image_size
    outright.
    """
    resized = (
        np.full_like(sizes, image_size)
        if short_side is None
        else short_side * sizes // sizes.min(1, keepdims=True)
    )
    return resized, np.rint((resized - image_size) / 2).astype(np.int64)


def eval_short_side(augmentation: Augmentation) -> int | None:
    """The shorter side that evaluation resizes to where it cuts out the centre; none where it
    resizes outright.
    """
    return EVAL_SHORT_SIDE if augmentation == "resized_crop_flip" else None
