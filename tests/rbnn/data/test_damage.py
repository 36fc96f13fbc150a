"""A damaged image is named, in one line, by every loader and by the check; a dead loader process
says what happened.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from rbnn.data import open_loaders, open_source
from rbnn.data.check import check
from rbnn.data.loading import Loaders
from rbnn.engine import fit
from rbnn.errors import DataError, RunFailed
from rbnn.recipe import Recipe

HAS_DALI = (
    importlib.util.find_spec("nvidia") is not None
    and importlib.util.find_spec("nvidia.dali") is not None
)
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
KINDS = [
    pytest.param({"loader": "torchvision", "workers": 0}, id="torchvision-0"),
    pytest.param({"loader": "torchvision", "workers": 2}, id="torchvision-2"),
    pytest.param({"use_dali": True, "workers": 2}, id="dali", marks=needs_dali),
]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path: Path) -> None:
    path.write_bytes(b"not an image" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def headless(path: Path) -> None:
    """Good header and end, no Huffman tables: only decoding finds out."""
    content = path.read_bytes()
    start = content.index(b"\xff\xc4")
    path.write_bytes(content[:start] + b"\xff\xd9")


def opened(root: Path, options: dict[str, object]) -> Loaders:
    recipe = Recipe(
        dataset="imagenet", data_path=str(root), batch_size=6, batch_size_test=4, **options
    )
    return open_loaders(recipe, torch.device("cpu"))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(
    "damage", [truncate, cut_end, overwrite, empty, headless, Path.unlink], ids=lambda f: f.__name__
)
def test_a_damaged_training_image_is_named(
    own_imagenet: Path, options: dict[str, object], damage: object
) -> None:
    loaders = opened(own_imagenet, options)
    path = sorted((own_imagenet / "train").rglob("*_4.JPEG"))[1]
    damage(path)
    with pytest.raises(DataError) as caught:
        list(loaders.train.epoch(0))
    message = str(caught.value)
    assert message.startswith(f"image '{path}' cannot be ") and "\n" not in message
    assert f"rbnn data check imagenet --data_path '{own_imagenet}'" in message
    reasons = {Path.unlink: "read: No such file", empty: "decoded: it is an empty file"}
    assert reasons.get(damage, "decoded: it is truncated or damaged") in message


@pytest.mark.parametrize("options", KINDS)
def test_a_damaged_validation_image_is_named(
    own_imagenet: Path, options: dict[str, object]
) -> None:
    loaders = opened(own_imagenet, options)
    path = sorted((own_imagenet / "val").rglob("*.JPEG"))[-1]
    truncate(path)
    with pytest.raises(DataError, match=path.name):
        list(loaders.val)
    assert (
        multiprocessing.active_children() == []
    )  # left to the garbage collector, each would be waited for, for 5 s


@pytest.mark.parametrize("options", KINDS)
def test_bytes_behind_a_whole_image_do_no_harm(
    own_imagenet: Path, options: dict[str, object]
) -> None:
    for path in (own_imagenet / "train").rglob("*.JPEG"):
        path.write_bytes(path.read_bytes() + b"\0" * 500)
    assert sum(len(labels) for _, labels in opened(own_imagenet, options).train.epoch(0)) == 18


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_loader_process_is_reported_as_such(own_imagenet: Path) -> None:
    loaders = opened(own_imagenet, {"loader": "torchvision", "workers": 1})
    batches = iter(loaders.train.epoch(0))
    next(batches)
    (process,) = loaders.train.pool.loader._iterator._workers
    torchs_handler = signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # it would raise here, between two lines of the test
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    signal.signal(signal.SIGCHLD, torchs_handler)
    with pytest.raises(
        RunFailed, match=rf"data loading process \(pid {process.pid}\) .*lower workers"
    ):
        list(loaders.train.epoch(1))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.usefixtures("settings_put_back")
def test_a_loader_process_killed_between_batches_is_one_line_too(own_imagenet: Path) -> None:
    """torch's handler of SIGCHLD raises wherever the run is, outside the loader."""
    recipe = Recipe(
        dataset="imagenet",
        data_path=str(own_imagenet),
        batch_size=2,
        loader="torchvision",
        workers=1,
        threads=2,
        print_freq=1,
    )
    loaders = open_loaders(recipe, torch.device("cpu"))

    def kill(*where: int) -> None:
        (process,) = loaders.train.pool.loader._iterator._workers
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(
            os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
        )  # without taking the status from torch's handler

    with pytest.raises(RunFailed) as caught:
        fit(recipe, loaders, lambda metrics, path: None, progress=kill)
    assert re.match(
        r"a data loading process \(pid \d+\) was ended by the signal Killed, most likely for",
        str(caught.value),
    )
    loaders.train.pool.close()


def test_dali_that_is_not_installed_is_named(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "rbnn.data.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DataError, match="pip install nvidia-dali-cuda130"):
        opened(imagenet, {"use_dali": True})


def test_check_counts_and_names_every_damaged_image(
    own_imagenet: Path, wnids: tuple[str, ...]
) -> None:
    whole = check("imagenet", str(own_imagenet))
    assert (
        whole.ok
        and whole.counts["train"] == dict.fromkeys(wnids, 6)
        and sum(whole.counts["validation"].values()) == 7
    )
    damaged = [
        sorted((own_imagenet / "train").rglob("*_4.JPEG"))[0],
        sorted((own_imagenet / "val").rglob("*.JPEG"))[0],
    ]
    for path in damaged:
        truncate(path)
    calls: list[tuple[int, int]] = []
    report = check("imagenet", str(own_imagenet), lambda done, total: calls.append((done, total)))
    assert not report.ok and len(report.damaged) == 2
    assert all(str(path) in line for path, line in zip(damaged, report.damaged, strict=True))
    assert calls[-1] == (25, 25)
    text = "\n".join(report.lines())
    assert (
        "imagenet train: 18 images in 3 classes, 6 to 6 per class" in text and "2 damaged" in text
    )
    assert report.fingerprint == open_source("imagenet", str(own_imagenet)).fingerprint


def test_check_of_a_data_set_in_memory() -> None:
    report = check("digits", "")
    assert report.ok and sum(report.counts["train"].values()) == 1400
    assert report.lines()[-1] == "every image can be decoded"
