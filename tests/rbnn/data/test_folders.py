"""ImageNet's and Tiny ImageNet's layouts, their fingerprint, what is said of wrong ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rbnn.data.folders import open_source
from rbnn.data.images import decode
from rbnn.errors import DataError
from tests.rbnn.data.conftest import WNIDS


def test_labels_are_positions_among_the_sorted_wnids(imagenet: Path) -> None:
    source = open_source("imagenet", imagenet)
    assert source.classes == WNIDS
    for split in (source.train, source.val):
        for index, label in enumerate(split.labels):
            assert Path(split.files.path(index)).parent.name == WNIDS[label]
            assert decode("imagenet", split.files.path(index)).mode == "RGB"
    assert np.bincount(source.train.labels).tolist() == [6, 6, 6] and len(source.val) == 7


def test_exif_orientation_is_ignored(imagenet: Path) -> None:
    wide = next(path for path in sorted((imagenet / "train").rglob("*_4.JPEG")))
    assert decode("imagenet", str(wide)).size == (375, 231)


def test_tiny_imagenet_is_read_as_downloaded(tiny: Path) -> None:
    source = open_source("tinyimagenet", tiny)
    lines = (tiny / "val" / "val_annotations.txt").read_text().splitlines()
    listed = dict(line.split("\t")[:2] for line in lines)
    names = [Path(source.val.files.path(index)).name for index in range(7)]
    assert [WNIDS[label] for label in source.val.labels] == [listed[name] for name in names]
    assert len(source.train) == 12


def test_data_path_may_be_the_folder_or_its_parent(imagenet: Path, tiny: Path) -> None:
    assert open_source("imagenet", imagenet) == open_source("imagenet", imagenet.parent)
    assert open_source("tinyimagenet", tiny) == open_source("tinyimagenet", tiny.parent)


def first_image(root: Path) -> Path:
    return min((root / "train").rglob("*.JPEG"))


def named_as_downloaded(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).rename(root / f"ILSVRC2012_img_{split}")


def with_other_files(root: Path) -> None:
    folder = next((root / "train").iterdir())
    (folder / "._ghost.JPEG").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (root / "train" / ".cache").mkdir()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda root: None, True),
        (named_as_downloaded, True),
        (with_other_files, True),
        (lambda root: first_image(root).unlink(), False),
        (lambda root: first_image(root).rename(first_image(root).with_name("a.JPEG")), False),
        (lambda root: first_image(root).write_bytes(first_image(root).read_bytes() + b"\0"), False),
    ],
    ids=["copied", "ILSVRC", "other files", "fewer", "renamed", "longer"],
)
def test_the_fingerprint_is_of_names_and_sizes(
    change: Callable[[Path], object], same: bool, imagenet: Path, own_imagenet: Path
) -> None:
    fingerprint = open_source("imagenet", imagenet).fingerprint
    assert fingerprint.startswith("sha256:") and len(fingerprint) == 7 + 64
    change(own_imagenet)
    assert (open_source("imagenet", own_imagenet).fingerprint == fingerprint) == same


def refused(name: str, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(name, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tinyimagenet", "imagenet"])
def test_a_missing_folder_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    message = refused(name, tmp_path)
    for part in (f"data_path '{tmp_path}'", "train/ and val/", f"rbnn data prepare {name}"):
        assert part in message


def in_one_heap(root: Path) -> None:
    for path in list((root / "val").rglob("*.JPEG")):
        path.rename(root / "val" / path.name)


def of_other_data(root: Path) -> None:
    for number in range(1001):
        (root / "train" / f"n{number:08}").mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train" / "n09999999").mkdir(), "n09999999' holds no images"),
        (lambda root: shutil.rmtree(root / "train" / WNIDS[1]), f"class {WNIDS[1]}"),
        (in_one_heap, "one folder per wnid"),
        (of_other_data, "1004 class folders"),
    ],
    ids=["empty class", "class not trained", "heap", "other data"],
)
def test_a_folder_that_is_wrong_is_refused(
    change: Callable[[Path], object], message: str, own_imagenet: Path
) -> None:
    change(own_imagenet)
    assert message in refused("imagenet", own_imagenet)


def test_annotations_must_match_the_images(own_tiny: Path) -> None:
    images = own_tiny / "val" / "images"
    (images / "val_3.JPEG").rename(images / "extra.JPEG")
    assert "does not list extra.JPEG" in refused("tinyimagenet", own_tiny)
    (images / "extra.JPEG").unlink()
    assert "lists val_3.JPEG" in refused("tinyimagenet", own_tiny)
