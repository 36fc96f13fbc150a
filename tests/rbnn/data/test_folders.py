"""Layouts of ImageNet and Tiny ImageNet folders, their fingerprint, and what is said of those that
are wrong.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from rbnn.data.folders import open_source
from rbnn.data.images import decode
from rbnn.errors import DataError


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_labels_are_positions_among_the_sorted_wnids(
    imagenet: Path, wnids: tuple[str, ...]
) -> None:
    source = open_source("imagenet", imagenet)
    assert source.classes == wnids
    for split in (source.train, source.val):
        for index, label in enumerate(split.labels):
            assert Path(split.files.path(index)).parent.name == wnids[label]
            assert decode("imagenet", split.files.path(index)).mode == "RGB"
    assert np.bincount(source.train.labels).tolist() == [6, 6, 6] and len(source.val) == 7


def test_exif_orientation_is_ignored(imagenet: Path) -> None:
    wide = next(path for path in sorted((imagenet / "train").rglob("*_4.JPEG")))
    assert decode("imagenet", str(wide)).size == (375, 231)


def test_tiny_imagenet_is_read_as_downloaded(tiny: Path, wnids: tuple[str, ...]) -> None:
    source = open_source("tinyimagenet", tiny)
    listed = dict(
        line.split("\t")[:2]
        for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines()
    )
    assert [wnids[label] for label in source.val.labels] == [
        listed[Path(source.val.files.path(index)).name] for index in range(len(source.val))
    ]
    assert len(source.train) == 12 and len(source.val) == 7


def test_data_path_may_be_the_folder_or_its_parent(imagenet: Path, tiny: Path) -> None:
    assert open_source("imagenet", imagenet) == open_source("imagenet", imagenet.parent)
    assert open_source("tinyimagenet", tiny) == open_source("tinyimagenet", tiny.parent)


def test_ilsvrc_folder_names_are_the_same_data(own_imagenet: Path) -> None:
    before = open_source("imagenet", own_imagenet).fingerprint
    for split in ("train", "val"):
        (own_imagenet / split).rename(own_imagenet / f"ILSVRC2012_img_{split}")
    assert open_source("imagenet", own_imagenet).fingerprint == before


def test_a_copy_has_the_same_fingerprint_and_a_change_another(
    imagenet: Path, tmp_path: Path
) -> None:
    fingerprint = open_source("imagenet", imagenet).fingerprint
    assert fingerprint.startswith("sha256:") and len(fingerprint) == 7 + 64
    assert open_source("imagenet", copied(imagenet, tmp_path / "same")).fingerprint == fingerprint
    changes = {
        "fewer": lambda path: path.unlink(),
        "renamed": lambda path: path.rename(path.with_name("a.JPEG")),
        "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    }
    for name, change in changes.items():
        root = copied(imagenet, tmp_path / name)
        change(sorted((root / "train").rglob("*.JPEG"))[0])
        assert open_source("imagenet", root).fingerprint != fingerprint, name


def test_hidden_and_other_files_are_passed_over(own_imagenet: Path) -> None:
    folder = next((own_imagenet / "train").iterdir())
    (folder / "._ghost.JPEG").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (own_imagenet / "train" / ".cache").mkdir()
    assert len(open_source("imagenet", own_imagenet).train) == 18


def refused(name: str, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(name, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tinyimagenet", "imagenet"])
def test_a_missing_folder_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    message = refused(name, tmp_path)
    assert (
        f"data_path '{tmp_path}'" in message
        and "train/ and val/" in message
        and f"rbnn data prepare {name}" in message
    )


def test_an_empty_class_folder_is_named(own_imagenet: Path) -> None:
    (own_imagenet / "train" / "n09999999").mkdir()
    assert "n09999999' holds no images" in refused("imagenet", own_imagenet)


def test_a_validation_class_that_is_not_trained_is_named(own_imagenet: Path) -> None:
    shutil.rmtree(own_imagenet / "train" / "n02102040")
    assert "class n02102040" in refused("imagenet", own_imagenet)


def test_validation_images_in_one_heap_are_refused(own_imagenet: Path) -> None:
    for path in list((own_imagenet / "val").rglob("*.JPEG")):
        path.rename(own_imagenet / "val" / path.name)
    assert "one folder per wnid" in refused("imagenet", own_imagenet)


def test_a_folder_of_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for number in range(1001):
        (tmp_path / "train" / f"n{number:08}").mkdir(parents=True)
    assert "1001 class folders" in refused("imagenet", tmp_path)


def test_annotations_must_match_the_images(own_tiny: Path) -> None:
    (own_tiny / "val" / "images" / "val_3.JPEG").rename(own_tiny / "val" / "images" / "extra.JPEG")
    assert "does not list extra.JPEG" in refused("tinyimagenet", own_tiny)
    (own_tiny / "val" / "images" / "extra.JPEG").unlink()
    assert "lists val_3.JPEG" in refused("tinyimagenet", own_tiny)
