"""What a run says in a terminal: a line per epoch, with the finish time, and where within an epoch
it is.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from rbnn import console
from rbnn.console import (
    EpochPrinter,
    TrainingBar,
    evaluation_lines,
    finish_time,
    run_directory,
)
from rbnn.data import progress
from rbnn.recipe import Recipe

METRICS = {"train/loss": 1.5, "train/top1": 40.0, "lr": 0.1, "t": 0.01, "time/epoch_s": 2.0}
METRICS |= {"time/images_per_s": 1234.5, "gpu/memory_gib": 3.14}


def printed(
    recipe: Recipe, scores: list[float], capsys: pytest.CaptureFixture[str], first: int = 0
) -> list[str]:
    printer = EpochPrinter(recipe)
    for epoch, score in enumerate(scores, start=first):
        printer({**METRICS, "epoch": epoch, "val/top1": score}, None)
    return capsys.readouterr().out.splitlines()


def test_a_line_an_epoch_with_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(Recipe(epochs=10), [20.0, 30.0, 25.0], capsys)
    assert len(lines) == 3
    assert lines[0].startswith(
        "epoch  1/10  loss 1.500  train 40.00 %  val 20.00 % (best 20.00)  lr 0.1000  t 0.01  2.0 "
        "s  1,234 images/s, 3.1 GiB  finish "
    )
    assert "val 25.00 % (best 30.00)" in lines[2]


def test_no_finish_time_at_the_end_or_when_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = printed(Recipe(epochs=2), [1.0, 2.0], capsys)
    assert "finish" in first and "finish" not in last
    assert "finish" not in printed(Recipe(epochs=9, time_estimate=0), [1.0], capsys)[0]


def test_the_finish_time_counts_from_where_a_resumed_run_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "finish_time", lambda seconds: f"in {seconds:.0f} s")
    monkeypatch.setattr(console.time, "monotonic", lambda: 100.0)
    assert printed(Recipe(epochs=11), [1.0], capsys, first=5)[0].endswith("finish in 10 s")


def test_another_day_shows_its_date() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d", finish_time(timedelta(days=2).total_seconds())
    )


def test_progress_goes_to_stderr_with_the_finish_time_of_an_epoch_of_hours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "finish_time", lambda seconds: f"in {seconds:.0f} s")
    for time_estimate, finish in ((1, "  256 images/s  finish in 230 s"), (0, "  256 images/s")):
        printer = EpochPrinter(Recipe(epochs=3, time_estimate=time_estimate))
        for now, step in ((50.0, 20), (80.0, 50)):
            monkeypatch.setattr(console.time, "monotonic", lambda now=now: now)
            printer.progress(1, step, 140)
        assert capsys.readouterr() == (
            "",
            f"  epoch 2, step 20/140\n  epoch 2, step 50/140{finish}\n",
        )


def test_a_notebook_has_one_bar_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    kernel = type("ZMQInteractiveShell", (), {})()
    shown = SimpleNamespace(update=pages.append)
    tools = SimpleNamespace(HTML=str, display=lambda page, display_id: pages.append(page) or shown)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", tools)
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)
    bar = TrainingBar(Recipe(dataset="digits", epochs=2))
    bar.progress(0, 5, 10)
    bar({**METRICS, "epoch": 1, "val/top1": 20.0}, None)
    first, last = pages
    assert first.endswith("> resnet20_1w1a on digits: 0.5 of 2 epochs")
    assert last.startswith('<progress value="2.0" max="2"></progress> ')
    assert last.endswith(", val/top1 20.00 % (best 20.00), 1,234 images/s, 3.1 GiB")


def test_what_takes_long_is_told_while_and_after_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.told_if_long("reading"):
        pass
    assert capsys.readouterr().err == ""
    told = Event()
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(progress, "print", lambda *a, **k: (print(*a, **k), told.set()), False)
    with progress.told_if_long("reading"):
        assert told.wait(60)
    assert capsys.readouterr().err == "reading ...\nreading: 0 s\n"


def test_the_folder_of_a_run() -> None:
    assert run_directory(Recipe(results_dir="r", save="mine")) == Path("r/mine")
    name = run_directory(Recipe(results_dir="r", dataset="digits")).name
    assert name.startswith(f"digits_resnet20_1w1a_{datetime.now():%Y}")


def test_an_evaluation_in_two_lines() -> None:
    metrics = {"val/top1": 86.5, "val/top5": 99.25, "val/loss": 0.5}
    assert list(evaluation_lines("a.ckpt", metrics, 397)) == [
        "a.ckpt: 397 validation images",
        "top-1 86.500 %  top-5 99.250 %  loss 0.5000",
    ]
