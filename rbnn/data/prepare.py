"""Put a data set in place: download, verify, unpack. What is there and complete is used
as it is.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from rbnn.data import DATASETS, dataset_spec, open_source
from rbnn.data.download import fetch
from rbnn.data.folders import find_splits
from rbnn.errors import DataError


@dataclass(frozen=True)
class Archive:
    """Where the official archive is, its md5, and the folder that it unpacks to."""

    url: str
    md5: str
    folder: str


TINY = Archive(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    "tiny-imagenet-200",
)


def archive_of(name: str) -> Archive:
    """The archive of a data set that can be downloaded; of CIFAR, what torchvision states."""
    if name == "tinyimagenet":
        return TINY
    from rbnn.data.cifar import torchvision_class

    official = torchvision_class(name)
    return Archive(official.url, official.tgz_md5, official.base_folder)


def prepare(name: str, data_path: str | Path, *, url: str | None = None) -> str:
    """Make sure that `data_path` holds the data set, and say in one line what it holds.

    url: where to download the official archive from instead; its md5 must be the official one all
    the same. Raises DataError, one line, where the data set can only be got by hand, cannot be
    downloaded, or is there but damaged.
    """
    dataset_spec(name)
    if url and name in ("digits", "imagenet"):
        raise DataError(f"{name} is not downloaded by this command; leave --url out")
    if name == "digits":
        return "digits: comes with scikit-learn; nothing to do"
    if name == "imagenet":
        return prepare_by_hand(data_path)
    archive = archive_of(name)
    try:
        return found(name, data_path)
    except DataError as error:
        existing = [root / archive.folder for root in (Path(data_path), Path(data_path) / name)]
        there = next((folder for folder in existing if folder.is_dir()), None)
        if there:
            reason = str(error).partition("; ")[0]
            raise DataError(
                f"'{there}' is there, but not whole ({reason}); delete it and run again"
            ) from None
    download = fetch(url or archive.url, Path(data_path) / Path(archive.url).name, archive.md5)
    print(f"{download.name}: verified, unpacking", file=sys.stderr, flush=True)
    unpack(download, Path(data_path), archive.folder)
    download.unlink()
    return found(name, data_path)


def prepare_by_hand(data_path: str | Path) -> str:
    """ImageNet: what is there, or DataError saying how to get it."""
    try:
        find_splits("imagenet", data_path)
    except DataError:
        raise DataError(
            "imagenet must be downloaded by hand: register at https://image-net.org, get "
            "ILSVRC2012_img_train.tar and "
            f"ILSVRC2012_img_val.tar, unpack them to '{Path(data_path) / 'imagenet'}' as "
            "train/WNID/*.JPEG and val/WNID/*.JPEG"
        ) from None
    return found("imagenet", data_path)


def found(name: str, data_path: str | Path) -> str:
    """One line on the data set in `data_path`; DataError where it is missing or damaged."""
    source = open_source(name, str(data_path))
    complete = len(source.classes) == DATASETS[name].num_classes
    classes = f"{len(source.classes)} classes" + (
        "" if complete else f" of {DATASETS[name].num_classes}"
    )
    return (
        f"{name}: {len(source.train)} training and {len(source.val)} validation images, "
        f"{classes}, in '{data_path}'"
    )


def unpack(archive: Path, destination: Path, folder: str) -> None:
    """Unpack `folder` of an archive to `destination`, whole or not at all; DataError where it is
    damaged or reaches outside.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder}.", dir=destination) as temporary:
            root = Path(temporary)
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    outside = next(
                        (member for member in packed.namelist() if not is_inside(root, member)),
                        None,
                    )
                    if outside:
                        raise DataError(
                            f"archive '{archive}' writes outside its folder ('{outside}'); "
                            "nothing was unpacked"
                        )
                    packed.extractall(root)
            else:
                with tarfile.open(archive) as packed_tar:
                    packed_tar.extractall(root, filter="data")
            if not (root / folder).is_dir():
                raise DataError(
                    f"archive '{archive}' holds no folder {folder}; delete it and run again"
                )
            shutil.move(root / folder, destination / folder)
    except tarfile.FilterError as error:
        raise DataError(
            f"archive '{archive}' writes outside its folder ({error}); nothing was unpacked"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"archive '{archive}' is damaged ({error}); delete it and run again"
        ) from None
    except OSError as error:
        raise DataError(
            f"data_path '{destination}' cannot be written: {error.strerror or error}"
        ) from None


def is_inside(root: Path, member: str) -> bool:
    """Whether a member of an archive unpacked in `root` lands there."""
    return (root / member).resolve().is_relative_to(root.resolve())
