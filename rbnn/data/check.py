"""What a data set on disk really holds: images by class and split, and every image that cannot be
decoded, is damaged, or is not what its name says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from rbnn.data import open_source
from rbnn.data.corruption import JPEGS, jpeg_faults, png_fault
from rbnn.data.images import decode
from rbnn.data.source import Files, Split
from rbnn.errors import DataError
from rbnn.hardware import num_cores

CHUNK = 256  # images between two calls of progress


@dataclass(frozen=True)
class Report:
    """counts: split -> class -> number of images; damaged: one line per image that cannot be used
    or should not be; notes: one per image of another kind than its name says.
    """

    name: str
    data_path: str
    counts: dict[str, dict[str, int]]
    damaged: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str

    @property
    def ok(self) -> bool:
        """Whether no image is damaged."""
        return not self.damaged

    def lines(self) -> list[str]:
        """For people: a table of classes, the splits in total, the fingerprint, the notes, then the
        damaged images.
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
        return [*table, f"fingerprint {self.fingerprint}", *self.notes, verdict, *self.damaged]


def check(name: str, data_path: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Count and decode every image, in as many threads as there are cores; progress(images decoded,
    images in all).

    Raises DataError where the data set is missing or not laid out as it must be. CIFAR's files are
    checked by md5.
    """
    source = open_source(name, data_path)
    splits = {"train": source.train, "validation": source.val}
    total = sum(map(len, splits.values()))
    seen: list[Seen] = []
    done = 0
    with ThreadPoolExecutor(num_cores()) as threads:
        for split in splits.values():
            for start in range(0, len(split), CHUNK):
                stop = min(start + CHUNK, len(split))
                if isinstance(split.images, Files):
                    paths = [split.images.path(index) for index in range(start, stop)]
                    seen += look_at(name, paths, threads)
                done += stop - start
                if progress and isinstance(split.images, Files):
                    progress(done, total)
    counts = {key: per_class(split, source.classes) for key, split in splits.items()}
    damaged = tuple(one.damage for one in seen if one.damage)
    notes = tuple(note for one in seen if (note := lying_name(one)))
    return Report(name, str(data_path), counts, damaged, notes, source.fingerprint)


@dataclass(frozen=True)
class Seen:
    """A file that was looked at. format: Pillow's word for what it is; damage: one line."""

    path: str
    format: str = ""
    damage: str = ""


def look_at(name: str, paths: list[str], threads: ThreadPoolExecutor) -> list[Seen]:
    """Decode files as the loaders do; then look for damage that decoders pass over."""
    seen = list(threads.map(partial(look_at_one, name), paths))
    jpegs = [one.path for one in seen if one.format in JPEGS]
    faults = jpeg_faults(jpegs, threads)
    return [
        replace(one, damage=passed_over(one.path, faults[one.path])) if one.path in faults else one
        for one in seen
    ]


def look_at_one(name: str, path: str) -> Seen:
    """All but what libjpeg warns of."""
    try:
        decode(name, path)
    except DataError as error:
        return Seen(path, damage=str(error).partition("; see:")[0])
    with Image.open(path) as image:
        kind = image.format or ""
        fault = png_fault(image) if kind == "PNG" else ""
    return Seen(path, kind, passed_over(path, fault) if fault else "")


def passed_over(path: str, fault: str) -> str:
    """The line of an image that loaders take although it is damaged."""
    return f"image '{path}' is damaged, though decoders take what is left of it: {fault}"


def lying_name(one: Seen) -> str:
    """What an image is whose name says something else, in one line; "" for one that is honest."""
    claimed = Image.registered_extensions()[os.path.splitext(one.path)[1].lower()]
    if one.format in ("", claimed) or {one.format, claimed} == set(JPEGS):
        return ""
    return f"image '{one.path}' is {one.format}, whatever its name says; it is read as that"


def per_class(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    """class -> number of images of a split."""
    numbers = np.bincount(split.labels, minlength=len(classes)).tolist()
    return dict(zip(classes, numbers, strict=True))
