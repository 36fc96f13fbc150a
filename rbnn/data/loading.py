"""What every loader shares: the order of an epoch as a function of (seed, epoch), shards, splits
and fingerprints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbnn.distributed import World
from rbnn.errors import DataError, RunFailed

Batch = tuple[Tensor, Tensor]
# of the held-out split: fixed, so that trials and seeds of a sweep select on the same images
SPLIT_SEED = 1234
MIN_SHARE = 2  # images a rank needs in a batch: batch normalisation of one vector is not defined


@dataclass(frozen=True)
class Drawn:
    """A batch that is yet to be made on the device: `make(rows)`; rows (M, N) int64, a column per
    image. Unpacks into images and labels.
    """

    rows: Tensor
    make: Callable[[Tensor], Batch]

    def __len__(self) -> int:
        return self.rows.shape[1]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.make(self.rows))


class TrainLoader(Protocol):
    """Training batches: images (N, 3, S, S) normalised float, labels (N,) int64, on the run's
    device.
    """

    num_batches: int
    num_images: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch | Drawn]:
        """This rank's batches of an epoch: a function of the recipe's seed, the epoch, the rank and
        nothing else.

        start: number of batches to leave out, none of which is read or decoded.
        """
        ...


@dataclass(frozen=True)
class DataInfo:
    """What is known of the data of a run: a digest of its content, and the number of images by
    split.
    """

    name: str
    fingerprint: str
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaders:
    """A run's data. `val` iterates this rank's share of the validation images, each image on
    exactly one rank, once.
    """

    train: TrainLoader
    val: Iterable[Batch]
    info: DataInfo


@contextmanager
def dead_loaders_told() -> Iterator[None]:
    """Within it, a loader process that dies is one line, RunFailed, wherever the run is when torch
    notices.

    Between two batches torch raises from its handler of SIGCHLD, in whatever Python code runs at
    that moment.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(
            r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\).*?(?:signal: (\w+)|exited unexpectedly)"
            "|Pin memory thread exited",  # it got something that a dead process was to hand over
            str(error),
        )
        if isinstance(error, RunFailed) or not found:
            raise
        who = f"a data loading process (pid {found[1]})" if found[1] else "a data loading process"
        how = f"was ended by the signal {found[2]}" if found[2] else "ended unexpectedly"
        raise RunFailed(
            f"{who} {how}, most likely for lack of memory or of room in /dev/shm; "
            "lower workers or batch_size, and go on with --resume"
        ) from None


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and is the same on every machine."""
    return (
        int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest())
        >> 1
    )


def derived_generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def num_train_batches(num_images: int, batch_size: int, world: World) -> int:
    """Batches of an epoch: the last, smaller one counts where it leaves every rank at least two
    images.
    """
    whole, rest = divmod(num_images, batch_size)
    return whole + (rest // world.size >= MIN_SHARE)


def epoch_positions(num_images: int, batch_size: int, world: World) -> list[slice]:
    """This rank's slice of each batch, as positions in the epoch's order.

    A batch is split evenly; of the last, smaller one the remainder (fewer than world.size images)
    is left out, so that every rank holds as many images and the mean over ranks is the mean over
    the batch.
    """
    slices = []
    for batch in range(num_train_batches(num_images, batch_size, world)):
        start = batch * batch_size
        share = min(batch_size, num_images - start) // world.size
        slices.append(slice(start + world.rank * share, start + (world.rank + 1) * share))
    return slices


def stratified_holdout(
    labels: NDArray[np.int64], num_held: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kept, held) indices, sorted: exactly `num_held` held out, each class in proportion (largest
    remainders), fixed seed.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    classes, counts = np.unique(labels, return_counts=True)
    quota = counts * num_held / len(labels)
    take = np.floor(quota).astype(int)
    for index in np.argsort(take - quota, kind="stable")[: num_held - take.sum()]:
        take[index] += 1
    held = [
        rng.permutation(np.flatnonzero(labels == label))[:num]
        for label, num in zip(classes, take, strict=True)
    ]
    mask = np.zeros(len(labels), dtype=bool)
    mask[np.concatenate(held)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def stratified_part(labels: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """The first `num` images of an order that is drawn once and for all, rising; of a smaller part
    each is in a larger one too. In every part a class has its share, to within two images.

    DataError for fewer images than classes, or more than there are.
    """
    classes = np.unique(labels)
    if not len(classes) <= num <= len(labels):
        raise DataError(
            f"train_images is {num}; it must be from {len(classes)}, the number of classes, to "
            f"{len(labels)}, that of all training images, or 0 for all"
        )
    rng = np.random.default_rng(SPLIT_SEED)
    places = np.empty(len(labels))
    for label in classes:  # spread evenly from 0 to 1, whatever the class's size
        rows = rng.permutation(np.flatnonzero(labels == label))
        places[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.sort(np.argsort(places, kind="stable")[:num])


def holdout_size(num_images: int, num_classes: int, fraction: float) -> int:
    """Number of training images that `val_fraction` holds out; DataError where a class would lose
    or gain none.
    """
    num = round(num_images * fraction)
    if num < num_classes or num > num_images - num_classes:
        raise DataError(
            f"val_fraction {fraction:g} holds out {num} of {num_images} images; "
            f"{num_classes} classes need at least one on each side"
        )
    return num


def array_fingerprint(*arrays: NDArray[np.generic]) -> str:
    """sha256 over shapes, dtypes and bytes, as "sha256:<64 hex digits>"."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
