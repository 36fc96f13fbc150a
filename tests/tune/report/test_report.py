"""Reports: what they show is what the study holds, in one file that needs nothing else, also of a
sweep that barely began.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState, create_trial

from rbnn.session import resolve
from tune.report.data import Axis, gather
from tune.report.figures import Panel, curves, diagnostics, history, scales, ticks_of, with_ends
from tune.report.page import page, write_report
from tune.report.publish import description
from tune.run.journal import Journal
from tune.sweep.config import parse_sweep
from tune.sweep.folder import SWEEP_FILE, SweepFolder, SweepRecord, trial_directory
from tune.sweep.study import CAUSE, RUN, VALUES, Study

ROOT = Path(__file__).resolve().parents[3]
FILE = parse_sweep(
    {
        "name": "look",
        "description": "Does <b>it</b> matter?",
        "base": {"dataset": "digits", "epochs": 4, "threads": 1},
        "space": {"lr": {"log": [0.01, 1]}, "rotation_update": {"integer": [1, 4]}}
        | {"warm_up": "boolean"},
        "scheduler": {"grace_period": 4},
    },
    Path(),
)
# lr, epochs, score of the last epoch; the first is the documented default
TRIALS = [
    (0.1, 4, 50.0), (0.02, 2, 20.0), (0.3, 4, 70.0), (0.5, 4, 60.0), (0.9, 0, None), (0.2, 4, 80.0)
]  # fmt: skip


def sweep(directory: Path, trials: list[tuple[float, int, float | None]]) -> SweepFolder:
    """A sweep's folder as one leaves it: complete, pruned and failed trials."""
    directory.mkdir()
    (directory / SWEEP_FILE).write_text(yaml.safe_dump(FILE.to_dict(), sort_keys=False))
    folder, times = SweepFolder(directory), {"began": time.time(), "ended": time.time()}
    about: dict[str, Any] = {"name": "look-1", "recipe": resolve(FILE.baseline).to_dict(), **times}
    folder.write(SweepRecord(**about, trials=6, state="finished", id="f" * 32))
    study = Study(folder.storage_url(), "look-1").study
    for number, (rate, epochs, score) in enumerate(trials):
        values = {"lr": rate, "rotation_update": 1 + number % 4, "warm_up": number % 2 == 1}
        state = TrialState.COMPLETE if epochs == 4 else TrialState.PRUNED
        if score is None:
            state = TrialState.FAIL
        cause = "it broke" if score is None else ""
        trial = create_trial(
            state=state,
            value=score if state == TrialState.COMPLETE else None,
            params=FILE.space.raw(values),
            distributions=FILE.space.distributions,
            intermediate_values={n: (score or 0) * n / epochs for n in range(1, epochs + 1)},
            user_attrs={VALUES: values, RUN: f"{number:032x}", CAUSE: cause},
        )
        study.add_trial(trial)
    for number in (0, 5):
        journal = Journal(trial_directory(directory, number))
        for epoch in range(4):
            journal.append({"epoch": epoch, "val/top1": 1.0, "rbnn/sin_beta": 1 - epoch / 10})
        with journal.file.open("a") as file:
            file.write('{"epoch": 4, "rbnn/sin')
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return sweep(tmp_path_factory.mktemp("report") / "look-1", TRIALS)


def test_what_is_gathered_is_what_the_study_holds(folder: SweepFolder) -> None:
    data = gather(folder)
    assert [row.number for row in data.rows] == [0, 1, 2, 3, 5]
    assert data.best_so_far() == [(0, 50.0), (1, 50.0), (2, 70.0), (3, 70.0), (5, 80.0)]
    assert data.curves[1] == [(1, 10.0), (2, 20.0)] and 4 not in data.curves
    assert set(data.importance) == {"lr", "rotation_update", "warm_up"}
    assert data.diagnostics["rbnn/sin_beta"][5] == [(1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7)]
    assert data.axes[2] == Axis("warm_up", False, (False, True))


def test_an_option_that_did_not_vary_among_complete_trials_has_no_importance(
    tmp_path: Path,
) -> None:
    trials = [(0.1, 4, score) for score in (10.0, 20.0, 30.0, 40.0)] + [(0.2, 2, 5.0)]
    found = gather(sweep(tmp_path / "same", trials)).importance
    assert set(found) == {"rotation_update", "warm_up"}


def figures_in(text: str) -> dict[str, Any]:
    """Those that the code of a page draws."""
    packed = re.search(r'id="packed">(.*?)</script>', text)
    assert packed
    code = gzip.decompress(base64.b64decode(packed[1])).decode()
    found = re.search(r"\nconst FIGURES = (\{.*?\});\n", code)
    assert found
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def named(panel: Panel, name: str) -> Any:
    return next(one for one in panel.series if one.name == name)


def test_the_page_holds_every_figure_needs_nothing_else_and_is_small(folder: SweepFolder) -> None:
    text = page(gather(folder))
    keys = {"history", "curves", "parallel", "importance", "slices", "diagnostics"}
    figures = figures_in(text)
    assert {key.rstrip("0123456789") for key in figures} == keys
    assert "http" not in text and "src=" not in text and "@import" not in text
    assert "Does &lt;b&gt;it&lt;/b&gt; matter?" in text
    assert len(text) <= 1_500_000
    for figure in figures.values():
        axes = [value for key, value in figure["layout"].items() if re.match(r"[xy]axis", key)]
        assert all("title" in axis for axis in axes)


def test_figures_show_the_default_where_trials_were_pruned_and_every_option(
    folder: SweepFolder,
) -> None:
    data = gather(folder)
    assert named(history(data)[0], "documented default 50.00 %").y == [50.0, 50.0]
    pruned = named(curves(data)[0], "pruned here")
    assert (pruned.x, pruned.y) == ([2], [20.0])
    labels = [scale.label for scale in scales(data)]
    assert labels == ["lr (log)", "rotation_update", "warm_up", "val/top1 (%)"]


def test_a_short_schedule_has_a_mark_of_its_own_and_no_cross(folder: SweepFolder) -> None:
    data = gather(folder)
    data.table.rows[1].values["epochs"] = data.table.rows[1].epochs
    assert named(history(data)[0], "short").x == [1]
    assert named(curves(data)[0], "short").x == [1, 2, None]
    assert data.summary.counts()["short"] == 1 and data.summary.counts()["pruned"] == 0
    assert not {"pruned", "pruned here"} & {series.name for series in curves(data)[0].series}


def test_both_files_are_written(folder: SweepFolder, tmp_path: Path) -> None:
    report = write_report(folder, tmp_path / "new")
    page_file, picture = report.files
    assert page_file.read_text().startswith("<!doctype html>")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report.to_dict()["best"]["trial"] == 5 and report.to_dict()["default_top1"] == 50.0


@pytest.mark.parametrize(
    ("trials", "missing"),
    [
        ([], ["No trial has finished an epoch yet.", "Not computed: 0 trial(s) ran to their end"]),
        (TRIALS[:2], ["Not computed: 1 trial(s) ran to their end, and it takes at least 4."]),
        ([(0.1, 4, 10.0)] * 4, ["Not computed: all complete trials have the same score"]),
    ],
)
def test_what_cannot_be_shown_yet_says_why(
    tmp_path: Path, trials: list[Any], missing: list[str]
) -> None:
    text = write_report(sweep(tmp_path / "young", trials)).files[0].read_text()
    assert all(sentence in text for sentence in missing)
    assert "importance0" not in figures_in(text)


def test_the_sweeps_page_in_mlflow_says_the_result_first(folder: SweepFolder) -> None:
    note = description(gather(folder), folder)
    first = note.partition("\n")[0]
    verdict = "trial 5 reaches val/top1 80.00 %, +30.00 points against the documented default's"
    assert first.startswith(f"**{verdict} 50.00 %.**")
    assert f"compareRunsMode=CHART&viewStateShareKey={'f' * 32})" in first
    assert "**Budget.** 6 trials" in note and "`rbnn replay 00000000 --verify`" in note
    assert "| **80.00** |" in note and "| documented default |" in note


def test_ticks_of_a_log_axis_are_round_and_few() -> None:
    axis = Axis("lr", True, ())
    assert list(ticks_of(axis, [1, 16]).values()) == ["1", "2", "5", "10", "20"]
    assert list(ticks_of(axis, [0.001, 1.0]).values()) == ["0.001", "0.01", "0.1", "1"]


def test_an_axis_of_parallel_coordinates_has_its_ends_and_what_has_room_between() -> None:
    texts = {0.024: "0.024", 0.156: "0.156"}
    found = with_ends([0.024, 0.156], {0.025: "0.025", 0.05: "0.05", 0.2: "0.2"}, texts)
    assert list(found.values()) == ["0.024", "0.05", "0.156"]


def test_a_look_at_a_sweep_loads_nothing_that_takes_seconds(folder: SweepFolder) -> None:
    program = [sys.executable, "-W", "ignore", "-m", "tests.tune.report.looking"]
    subprocess.run([*program, str(folder.directory)], cwd=ROOT, check=True)


def test_the_best_and_the_documented_default_have_one_colour_in_every_figure(
    folder: SweepFolder,
) -> None:
    data = gather(folder)
    (measured,), (learned,) = diagnostics(data), curves(data)
    best, default = named(measured, "trial 5").colour, named(measured, "trial 0").colour
    assert best == named(learned, "best, trial 5").colour != default
    assert default == named(learned, "documented default, trial 0").colour
