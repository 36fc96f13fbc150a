"""What a data set is once it is found: images in memory or files on disk, labels, and what of them
a run trains on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbnn.data.loading import (
    DataInfo,
    array_fingerprint,
    holdout_size,
    stratified_holdout,
    stratified_part,
)
from rbnn.recipe import Recipe


@dataclass(frozen=True)
class Files:
    """Image files under `root`. `names`: (N,) bytes, relative; one block of memory, which forked
    loader processes share.

    (A list of a million str would be copied page by page into every process, as reading one counts
    references.)
    """

    root: Path
    names: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: NDArray[np.int64]) -> Files:
        return Files(self.root, self.names[indices])

    def path(self, index: int) -> str:
        """The whole path of one file."""
        return os.path.join(self.root, os.fsdecode(bytes(self.names[index])))


@dataclass(frozen=True)
class Split:
    """images: (N, 3, S, S) uint8, never written to, or files; labels: (N,) int64.

    rows: where the images of a part of a data set in memory stand in `images`, which is then not
    copied; None: all of them.
    """

    images: NDArray[np.uint8] | Files
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> Split:
        """The images at `indices`."""
        if isinstance(self.images, Files):
            return Split(self.images[indices], self.labels[indices])
        return Split(
            self.images, self.labels[indices], np.arange(len(self.images))[self._rows(indices)]
        )

    def at(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of the images at `indices`, of a data set in memory."""
        images, rows = self.array_and_rows(indices)
        return images[rows]

    def array_and_rows(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The array that a data set in memory is a part of, and where in it the images at `indices`
        stand.
        """
        assert isinstance(self.images, np.ndarray)
        return self.images, self._rows(indices)

    def _rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return indices if self.rows is None else self.rows[indices]

    @property
    def array(self) -> NDArray[np.uint8]:
        """The images of a data set in memory; a copy where they are a part of it."""
        assert isinstance(self.images, np.ndarray)
        return self.images if self.rows is None else self.images[self.rows]

    @property
    def files(self) -> Files:
        """The images of a data set on disk."""
        assert isinstance(self.images, Files)
        return self.images


@dataclass(frozen=True)
class Source:
    """A data set as it was found. `val`: its own validation or test split."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    fingerprint: str


def splits_of_run(source: Source, recipe: Recipe) -> tuple[Split, Split, DataInfo]:
    """What a run trains on and validates on.

    With train_images above 0 it is a part of `train`, with a fingerprint of its own. With
    val_fraction above 0 the validation images come out of that, stratified, and `val` stays unseen
    as "test".
    """
    train, val, sizes, fingerprint = source.train, source.val, {}, source.fingerprint
    if recipe.train_images:
        part = stratified_part(train.labels, recipe.train_images)
        train = train.subset(part)
        fingerprint = array_fingerprint(np.frombuffer(fingerprint.encode(), np.uint8), part)
    if recipe.val_fraction:
        sizes["test"] = len(val)
        num_classes = len(np.unique(train.labels))
        kept, held = stratified_holdout(
            train.labels, holdout_size(len(train), num_classes, recipe.val_fraction)
        )
        train, val = train.subset(kept), train.subset(held)
    sizes |= {"train": len(train), "validation": len(val)}
    return train, val, DataInfo(recipe.dataset, fingerprint, sizes)
