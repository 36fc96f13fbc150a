"""CIFAR-10 and CIFAR-100 from the official files, read and md5-checked by torchvision."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from rbnn.data.loading import array_fingerprint
from rbnn.data.source import Source, Split
from rbnn.errors import DataError


def torchvision_class(name: str) -> Any:
    """torchvision's reader: `base_folder`, `url`, `filename` and `tgz_md5` say where the official
    files come from.
    """
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def find_root(name: str, data_path: str | Path) -> Path:
    """The folder that holds the official folder: `data_path`, `data_path`/`name`, or the one above
    `data_path`.
    """
    folder = torchvision_class(name).base_folder
    above = [Path(data_path).resolve().parent] if Path(data_path).resolve().name == folder else []
    for root in (Path(data_path), Path(data_path) / name, *above):
        if (root / folder).is_dir():
            return root
    raise DataError(
        f"data_path '{data_path}' holds no {folder}; run: rbnn data prepare {name} --data_path "
        f"'{data_path}', "
        "or give the folder that does"
    )


@functools.lru_cache(maxsize=2)
def _read(name: str, root: Path) -> Source:
    splits = []
    for is_train in (True, False):
        try:
            data = torchvision_class(name)(root, train=is_train)
        except RuntimeError:
            folder = root / torchvision_class(name).base_folder
            raise DataError(
                f"data_path '{root}': of {folder.name}, {', '.join(faults(name, folder))}; delete "
                f"{folder}, "
                f"then run: rbnn data prepare {name} --data_path '{root}'"
            ) from None
        images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        splits.append(Split(images, np.asarray(data.targets, dtype=np.int64)))
    train, val = splits
    fingerprint = array_fingerprint(train.array, train.labels, val.array, val.labels)
    return Source(train, val, tuple(data.classes), fingerprint)


def faults(name: str, folder: Path) -> list[str]:
    """Each official file that cannot be used, and why."""
    from torchvision.datasets.utils import check_integrity

    official = torchvision_class(name)
    listed = [
        *official.train_list,
        *official.test_list,
        (official.meta["filename"], official.meta["md5"]),
    ]
    bad = [file for file, md5 in listed if not check_integrity(folder / file, md5)]
    return [
        f"{file} is {'damaged (md5)' if (folder / file).is_file() else 'missing'}" for file in bad
    ]


def open_source(name: str, data_path: str | Path) -> Source:
    """See `rbnn.data.open_source`: images (N, 3, 32, 32) uint8; kept for the next run in this
    process.
    """
    return _read(name, find_root(name, data_path).resolve())
