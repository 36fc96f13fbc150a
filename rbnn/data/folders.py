"""ImageNet and Tiny ImageNet as folders of images, in the layouts that their archives unpack to.

ImageNet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or ILSVRC2012_img_train and ILSVRC2012_img_val.
Tiny ImageNet: train/<wnid>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt (or
val/<wnid>, as some scripts sort it). A class is the position of its wnid among the sorted wnids of
the training folder. Hidden files are passed over.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rbnn.data.source import Files, Source, Split
from rbnn.datasets import dataset_spec
from rbnn.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class Layout:
    """Where a data set's folder lies under data_path, and the names of its two splits."""

    folders: tuple[str, ...]
    splits: tuple[tuple[str, str], ...]
    expected: str
    remedy: str


LAYOUTS = {
    "tinyimagenet": Layout(
        ("tiny-imagenet-200", "tinyimagenet"),
        (("train", "val"),),
        "tiny-imagenet-200 with train/ and val/",
        "run: rbnn data prepare tinyimagenet --data_path '{data_path}', or give its folder",
    ),
    "imagenet": Layout(
        ("imagenet",),
        (("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val")),
        "train/ and val/ (or ILSVRC2012_img_train/ and ILSVRC2012_img_val/) with a folder per wnid",
        "give the folder that does; rbnn data prepare imagenet says how to get it",
    ),
}


def find_splits(name: str, data_path: str | Path) -> tuple[Path, Path]:
    """The training and the validation folder, in `data_path` or in the data set's own folder there;
    DataError without them.
    """
    layout = LAYOUTS[name]
    for root in (Path(data_path), *(Path(data_path) / folder for folder in layout.folders)):
        for train, val in layout.splits:
            if (root / train).is_dir() and (root / val).is_dir():
                return root / train, root / val
    raise DataError(
        f"data_path '{data_path}' holds no {layout.expected}; "
        f"{layout.remedy.format(data_path=data_path)}"
    )


def open_source(name: str, data_path: str | Path) -> Source:
    """See `rbnn.data.open_source`; the folders are read once per process."""
    train, val = find_splits(name, data_path)
    return scan(name, train.resolve(), val.resolve())


@functools.lru_cache(maxsize=4)
def scan(name: str, train_dir: Path, val_dir: Path) -> Source:
    """Files and labels by name only, no image being opened.

    The fingerprint is sha256 over path within the split, size in bytes and class of every image,
    sorted: cheap, and blind to a change that keeps a file's size. Raises DataError for what is not
    the data set's layout.
    """
    train = class_folders(train_dir)
    classes = sorted(train)
    limit = dataset_spec(name).num_classes
    if not 0 < len(classes) <= limit:
        raise DataError(
            f"{name}: '{train_dir}' holds {len(classes)} class folders; it must hold 1 to "
            f"{limit}, named by wnid"
        )
    empty = next((wnid for wnid in classes if not train[wnid]), None)
    if empty:
        raise DataError(
            f"{name}: '{train_dir / empty}' holds no images; unpack the archive of this class "
            "into it, or remove it"
        )
    annotations = val_dir / "val_annotations.txt"
    val = (
        annotated(val_dir, annotations)
        if (val_dir / "images").is_dir() and annotations.exists()
        else class_folders(val_dir)
    )
    unknown = next((wnid for wnid in val if wnid not in train), None)
    if unknown:
        raise DataError(
            f"{name}: class {unknown} of '{val_dir}' is not in '{train_dir}'; complete one or "
            "remove it from the other"
        )
    if not any(val.values()):
        raise DataError(
            f"{name}: '{val_dir}' holds no class folders with images; sort its images into one "
            "folder per wnid"
        )
    digest = hashlib.sha256()
    splits = []
    for split, root, found in (("train", train_dir, train), ("val", val_dir, val)):
        rows = sorted(
            (path, size, label)
            for label, wnid in enumerate(classes)
            for path, size in found.get(wnid, [])
        )
        for path, size, label in rows:
            digest.update(b"%s/%s\0%d\0%d\n" % (split.encode(), path, size, label))
        labels = np.array([label for _, _, label in rows], dtype=np.int64)
        splits.append(
            Split(Files(root, np.array([path for path, _, _ in rows], dtype=np.bytes_)), labels)
        )
    return Source(splits[0], splits[1], tuple(classes), f"sha256:{digest.hexdigest()}")


Found = dict[str, list[tuple[bytes, int]]]


def class_folders(root: Path) -> Found:
    """wnid -> (path under root, size in bytes) of its images, in <wnid>/ or in <wnid>/images/."""
    found: Found = {}
    for entry in os.scandir(root):
        if entry.is_dir() and not entry.name.startswith("."):
            inner = os.path.join(entry.path, "images")
            found[entry.name] = images_in(inner if os.path.isdir(inner) else entry.path, root)
    return found


def images_in(folder: str | Path, root: Path) -> list[tuple[bytes, int]]:
    """(path under root, size in bytes) of the images that lie in a folder."""
    prefix = os.fsencode(os.path.relpath(folder, root))
    with os.scandir(folder) as entries:
        return [
            (prefix + b"/" + os.fsencode(entry.name), entry.stat().st_size)
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        ]


def annotated(root: Path, annotations: Path) -> Found:
    """wnid -> images of the flat folder root/images, by the stock val_annotations.txt; DataError
    where they do not match.
    """
    lines = annotations.read_text("utf-8", "surrogateescape").splitlines()  # as file names are
    wnid_of = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    found: Found = {}
    for path, size in images_in(root / "images", root):
        name = os.fsdecode(os.path.basename(path))
        if name not in wnid_of:
            raise DataError(
                f"'{annotations}' does not list {name}, which is in images/; unpack the archive "
                "again"
            )
        found.setdefault(wnid_of.pop(name), []).append((path, size))
    if wnid_of:
        raise DataError(
            f"'{annotations}' lists {next(iter(wnid_of))}, which is not in images/; unpack the "
            "archive again"
        )
    return found
