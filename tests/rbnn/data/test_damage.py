"""A damaged image is named by every loader and the check; a dead process says what happened."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import dataloader

from rbnn.data import open_loaders, open_source
from rbnn.data.check import check
from rbnn.data.loading import Loaders, dead_loaders_told
from rbnn.data.torchvision_loader import PipedEvent, loader_processes
from rbnn.engine import fit
from rbnn.errors import DataError, RunFailed
from rbnn.recipe import Recipe
from tests.rbnn.data.conftest import WNIDS
from tests.rbnn.small import CPU, needs_dali

needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
each_loader = pytest.mark.parametrize(
    "options",
    [
        pytest.param({"loader": "torchvision", "workers": 0}, id="torchvision-0"),
        pytest.param({"loader": "torchvision", "workers": 2}, id="torchvision-2"),
        pytest.param({"use_dali": True, "workers": 2}, id="dali", marks=needs_dali),
    ],
)


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def headless(content: bytes) -> bytes:
    """Good header and end, no Huffman tables: only decoding finds out."""
    return content[: content.index(b"\xff\xc4")] + b"\xff\xd9"


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def recipe_of(root: Path, options: dict[str, Any]) -> Recipe:
    small = {"batch_size": 6, "batch_size_test": 4, "threads": 2}
    return Recipe(dataset="imagenet", data_path=str(root), **{**small, **options})


def opened(root: Path, options: dict[str, Any]) -> Loaders:
    return open_loaders(recipe_of(root, options), CPU)


@each_loader
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "decoded: it is truncated or damaged"),
        (lambda content: content[:-10], "decoded: it is truncated or damaged"),
        (lambda content: b"not an image" * 100, "decoded: it is truncated or damaged"),
        (headless, "decoded: it is truncated or damaged"),
        (lambda content: b"", "decoded: it is an empty file"),
        (None, "read: No such file"),
    ],
    ids=["half", "end cut", "other", "headless", "empty", "missing"],
)
def test_a_damaged_image_is_named(
    own_imagenet: Path,
    options: dict[str, Any],
    damage: Callable[[bytes], bytes] | None,
    reason: str,
) -> None:
    loaders = opened(own_imagenet, options)
    for split, read in (("train", lambda: loaders.train.epoch(0)), ("val", lambda: loaders.val)):
        path = sorted((own_imagenet / split).rglob("*_4.JPEG"))[-1]
        if damage:
            changed(path, damage)
        else:
            path.unlink()
        with pytest.raises(DataError) as caught:
            list(read())
        message = str(caught.value)
        assert message.startswith(f"image '{path}' cannot be {reason}") and "\n" not in message
        assert f"rbnn data check imagenet --data_path '{own_imagenet}'" in message
    # Left to the garbage collector, each would be waited for, for 5 s.
    assert multiprocessing.active_children() == []


@each_loader
def test_bytes_behind_a_whole_image_do_no_harm(own_imagenet: Path, options: dict[str, Any]) -> None:
    for path in (own_imagenet / "train").rglob("*.JPEG"):
        changed(path, lambda content: content + b"\0" * 500)
    assert sum(len(labels) for _, labels in opened(own_imagenet, options).train.epoch(0)) == 18


@needs_sigkill
def test_a_killed_loader_process_is_reported_as_such(own_imagenet: Path) -> None:
    loaders = opened(own_imagenet, {"loader": "torchvision", "workers": 1})
    batches = iter(loaders.train.epoch(0))
    next(batches)
    (process,) = loaders.train.pool.loader._iterator._workers
    # torch's handler would raise here, between two lines of the test.
    torchs_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    signal.signal(signal.SIGCHLD, torchs_handler)
    told = rf"data loading process \(pid {process.pid}\) .*lower workers"
    with pytest.raises(RunFailed, match=told):
        list(loaders.train.epoch(1))


def test_a_thread_that_pins_what_a_dead_process_made_is_told_as_that() -> None:
    """Its end is all that torch says where no handler of SIGCHLD is, as in Ray's threads."""
    said = "Pin memory thread exited unexpectedly"
    assert said in inspect.getsource(dataloader)
    with (
        pytest.raises(RunFailed, match=r"^a data loading process ended unexpectedly, most likely"),
        dead_loaders_told(),
    ):
        raise RuntimeError(said)


def ask_for_ever(event: PipedEvent, asked: PipedEvent) -> None:
    while True:
        event.is_set()
        if not asked.is_set():
            asked.set()


@needs_sigkill
def test_a_process_killed_while_it_asks_its_event_leaves_it_usable() -> None:
    """multiprocessing's own would be locked for ever after half of the kills."""
    for _ in range(8):
        context = loader_processes()
        event, asked = context.Event(), context.Event()
        process = context.Process(target=ask_for_ever, args=(event, asked), daemon=True)
        process.start()
        while not asked.is_set():
            assert process.is_alive()
        process.kill()
        process.join()
        assert not event.is_set()
        event.set()
        assert event.is_set()


@needs_sigkill
@pytest.mark.usefixtures("settings_put_back")
def test_a_loader_process_killed_between_batches_is_one_line_too(own_imagenet: Path) -> None:
    """torch's handler of SIGCHLD raises wherever the run is, outside the loader."""
    options = {"batch_size": 2, "loader": "torchvision", "workers": 1, "print_freq": 1}
    recipe = recipe_of(own_imagenet, options)
    loaders = open_loaders(recipe, CPU)

    def kill(*where: int) -> None:
        (process,) = loaders.train.pool.loader._iterator._workers
        os.kill(process.pid, signal.SIGKILL)
        # Without taking the status from torch's handler.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(RunFailed) as caught:
        fit(recipe, loaders, lambda metrics, path: None, progress=kill)
    told = r"a data loading process \(pid \d+\) was ended by the signal Killed, most likely for"
    assert re.match(told, str(caught.value))
    loaders.train.pool.close()


def test_dali_not_installed_is_named(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rbnn.data.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DataError, match="pip install nvidia-dali-cuda130"):
        opened(imagenet, {"use_dali": True})


def test_check_counts_and_names_every_damaged_image(own_imagenet: Path) -> None:
    whole = check("imagenet", str(own_imagenet))
    assert whole.ok and whole.counts["train"] == dict.fromkeys(WNIDS, 6)
    assert sum(whole.counts["validation"].values()) == 7
    damaged = [min((own_imagenet / split).rglob("*_4.JPEG")) for split in ("train", "val")]
    for path in damaged:
        changed(path, truncate)
    calls: list[tuple[int, int]] = []
    report = check("imagenet", str(own_imagenet), lambda *call: calls.append(call))
    assert not report.ok and calls[-1] == (25, 25)
    for path, line in zip(damaged, report.damaged, strict=True):
        assert str(path) in line
    text = "\n".join(report.lines())
    assert "imagenet train: 18 images in 3 classes, 6 to 6 per class" in text
    assert "2 damaged" in text
    assert report.fingerprint == open_source("imagenet", str(own_imagenet)).fingerprint


def test_check_of_a_data_set_in_memory() -> None:
    report = check("digits", "")
    assert report.ok and sum(report.counts["train"].values()) == 1400
    assert report.lines()[-1] == "every image can be decoded"
