"""What a run says in a terminal: a line an epoch, with the finish time, and where it is."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from rbnn import console
from rbnn.console import EpochPrinter, TrainingBar, evaluation_lines, finish_time, run_directory
from rbnn.data import progress
from rbnn.recipe import Recipe

Capture = pytest.CaptureFixture[str]
METRICS = {"train/loss": 1.5, "train/top1": 40.0, "lr": 0.1, "t": 0.01, "time/epoch_s": 2.0}
METRICS |= {"time/images_per_s": 1234.5, "gpu/memory_gib": 3.14}


@pytest.fixture(autouse=True)
def finishes_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "finish_time", lambda seconds: f"in {seconds:.0f} s")
    monkeypatch.setattr(console.time, "monotonic", lambda: 100.0)


def printed(recipe: Recipe, scores: dict[int, float], capsys: Capture) -> list[str]:
    """The lines of epochs that reached those scores."""
    printer = EpochPrinter(recipe)
    for epoch, score in scores.items():
        printer({**METRICS, "epoch": epoch, "val/top1": score}, None)
    return capsys.readouterr().out.splitlines()


def test_a_line_an_epoch_with_the_best_so_far_and_the_finish_time(capsys: Capture) -> None:
    lines = printed(Recipe(epochs=10), {7: 20.0, 8: 30.0, 9: 25.0}, capsys)
    assert lines[0] == (
        "epoch  8/10  loss 1.500  train 40.00 %  val 20.00 % (best 20.00)  lr 0.1000  t 0.01  2.0 s"
        "  1,234 images/s, 3.1 GiB  finish in 4 s"
    )
    assert "val 25.00 % (best 30.00)" in lines[2]
    assert ["finish" in line for line in lines] == [True, True, False]
    assert "finish" not in printed(Recipe(epochs=9, time_estimate=0), {0: 1.0}, capsys)[0]
    resumed = printed(Recipe(epochs=11), {5: 1.0}, capsys)
    assert resumed[0].endswith("finish in 10 s")  # counted from where the run began


def test_another_day_shows_its_date() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d", finish_time(timedelta(days=2).total_seconds())
    )


def test_progress_goes_to_stderr_with_the_finish_time_of_an_epoch_of_hours(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for time_estimate, finish in ((1, "  256 images/s  finish in 230 s"), (0, "  256 images/s")):
        printer = EpochPrinter(Recipe(epochs=3, time_estimate=time_estimate))
        for now, step in ((50.0, 20), (80.0, 50)):
            monkeypatch.setattr(console.time, "monotonic", lambda now=now: now)
            printer.progress(1, step, 140)
        told = f"  epoch 2, step 20/140\n  epoch 2, step 50/140{finish}\n"
        assert capsys.readouterr() == ("", told)


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


def test_what_takes_long_is_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
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
