"""What a data set on disk really holds: images by class and split, and every image that cannot be
decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rbnn.data import open_source
from rbnn.data.images import decode
from rbnn.data.source import Files, Split
from rbnn.errors import DataError
from rbnn.hardware import num_cores

CHUNK = 256  # images between two calls of progress


@dataclass(frozen=True)
class Report:
    """counts: split -> class -> number of images; damaged: one line per image that
    cannot be used.
    """

    name: str
    data_path: str
    counts: dict[str, dict[str, int]]
    damaged: tuple[str, ...]
    fingerprint: str

    @property
    def ok(self) -> bool:
        """Whether every image can be used."""
        return not self.damaged

    def lines(self) -> list[str]:
        """For people: a table of classes, the splits in total, the fingerprint, then the damaged
        images.
        """
        splits = list(self.counts)
        classes = list(self.counts[splits[0]])
        width = max(len("class"), *map(len, classes))
        table = [f"{'class':{width}} " + " ".join(f"{split:>10}" for split in splits)]
        for label in classes:
            table.append(
                f"{label:{width}} "
                + " ".join(f"{self.counts[split][label]:10}" for split in splits)
            )
        for split, by_class in self.counts.items():
            numbers = by_class.values()
            table.append(
                f"{self.name} {split}: {sum(numbers)} images in {sum(map(bool, numbers))} classes, "
                f"{min(numbers)} to {max(numbers)} per class"
            )
        verdict = f"{len(self.damaged)} damaged" if self.damaged else "every image can be decoded"
        return [*table, f"fingerprint {self.fingerprint}", verdict, *self.damaged]


def check(name: str, data_path: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Count and decode every image, in as many threads as there are cores; progress(images decoded,
    images in all).

    Raises DataError where the data set is missing or not laid out as it must be. CIFAR's files are
    checked by md5.
    """
    source = open_source(name, data_path)
    splits = {"train": source.train, "validation": source.val}
    total = sum(map(len, splits.values()))
    damaged: list[str] = []
    done = 0
    with ThreadPoolExecutor(num_cores()) as threads:
        for split in splits.values():
            for start in range(0, len(split), CHUNK):
                stop = min(start + CHUNK, len(split))
                if isinstance(split.images, Files):
                    paths = [split.images.path(index) for index in range(start, stop)]
                    damaged += filter(None, threads.map(lambda path: fault(name, path), paths))
                done += stop - start
                if progress and isinstance(split.images, Files):
                    progress(done, total)
    counts = {key: per_class(split, source.classes) for key, split in splits.items()}
    return Report(name, str(data_path), counts, tuple(damaged), source.fingerprint)


def fault(name: str, path: str) -> str | None:
    """What is wrong with an image, in one line; None for one that can be decoded."""
    try:
        decode(name, path)
    except DataError as error:
        return str(error).partition("; see:")[0]
    return None


def per_class(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    """class -> number of images of a split."""
    numbers = np.bincount(split.labels, minlength=len(classes)).tolist()
    return dict(zip(classes, numbers, strict=True))
