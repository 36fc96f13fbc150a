"""Reports: what they show is what the study holds, in one file that needs nothing else, also of a
sweep that barely began.
"""

from __future__ import annotations

import json
import math
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
from tune.report.page import page
from tune.report.publish import description
from tune.report.scales import log_ticks, ticks, trial_colours
from tune.report.write import write_report
from tune.sweep.config import parse_sweep
from tune.sweep.folder import SWEEP_FILE, Record, SweepFolder
from tune.sweep.study import CAUSE, RUN, VALUES, Study

FILE = parse_sweep(
    {
        "name": "look",
        "description": "Does <b>it</b> matter?",
        "base": {"dataset": "digits", "epochs": 4, "threads": 1},
        "space": {
            "lr": {"log": [0.01, 1]},
            "rotation_update": {"integer": [1, 4]},
            "warm_up": "boolean",
        },
        "scheduler": {"grace_period": 4},
    },
    Path(),
)
# lr, epochs, score of the last epoch; the first is the documented default
TRIALS = [
    (0.1, 4, 50.0),
    (0.02, 2, 20.0),
    (0.3, 4, 70.0),
    (0.5, 4, 60.0),
    (0.9, 0, None),
    (0.2, 4, 80.0),
]


def sweep(directory: Path, trials: list[tuple[float, int, float | None]]) -> SweepFolder:
    """A sweep's folder as one leaves it: complete, pruned and failed trials."""
    directory.mkdir()
    (directory / SWEEP_FILE).write_text(yaml.safe_dump(FILE.to_dict(), sort_keys=False))
    folder = SweepFolder(directory)
    recipe = resolve(FILE.baseline).to_dict()
    folder.write(
        Record(
            "look-1",
            recipe=recipe,
            trials=6,
            state="finished",
            began=time.time(),
            ended=time.time(),
            parent="f" * 32,
        )
    )
    history = Study(folder.storage_url(), "look-1")
    for number, (rate, epochs, score) in enumerate(trials):
        values = {"lr": rate, "rotation_update": 1 + number % 4, "warm_up": number % 2 == 1}
        scores = {epoch: (score or 0.0) * epoch / epochs for epoch in range(1, epochs + 1)}
        state = (
            TrialState.FAIL
            if score is None
            else TrialState.COMPLETE
            if epochs == 4
            else TrialState.PRUNED
        )
        attributes: dict[str, Any] = {
            VALUES: values,
            RUN: f"{number:032x}",
            CAUSE: "it broke" if score is None else "",
        }
        history.study.add_trial(
            create_trial(
                state=state,
                value=score if state == TrialState.COMPLETE else None,
                params=FILE.space.raw(values),
                distributions=FILE.space.distributions,
                intermediate_values=scores,
                user_attrs=attributes,
            )
        )
    for number in (0, 5):
        journal = directory / "trials" / f"{number:04d}" / "metrics.jsonl"
        journal.parent.mkdir(parents=True)
        rows = [
            json.dumps({"epoch": epoch, "val/top1": 1.0, "rbnn/sin_beta": 1 - epoch / 10})
            for epoch in range(4)
        ]
        journal.write_text("\n".join([*rows, '{"epoch": 4, "rbnn/sin']))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return sweep(tmp_path_factory.mktemp("report") / "look-1", TRIALS)


def test_what_is_gathered_is_what_the_study_holds(folder: SweepFolder) -> None:
    data = gather(folder)
    assert [row.number for row in data.rows] == [0, 1, 2, 3, 5]
    assert data.best_so_far() == [(0, 50.0), (1, 50.0), (2, 70.0), (3, 70.0), (5, 80.0)]
    assert data.default_top1 == 50.0
    assert data.curves[1] == [(1, 10.0), (2, 20.0)] and 4 not in data.curves
    assert set(data.importance) == {"lr", "rotation_update", "warm_up"}
    assert data.diagnostics["rbnn/sin_beta"][5] == [(1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7)]
    assert [(axis.name, axis.log, axis.choices) for axis in data.axes][2] == (
        "warm_up",
        False,
        (False, True),
    )


def figures_in(text: str) -> dict[str, Any]:
    found = re.search(r"const FIGURES = (\{.*?\});\n", text)
    assert found
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def test_the_page_holds_every_figure_and_needs_nothing_else(folder: SweepFolder) -> None:
    text = page(gather(folder))
    figures = figures_in(text)
    assert set(figures) == {"history", "curves", "parallel", "importance", "slices", "diagnostics"}
    own = text.partition("<script>")[0] + text.rpartition("</head>")[2]
    assert "http" not in own and "src=" not in own and "@import" not in own
    assert "Does &lt;b&gt;it&lt;/b&gt; matter?" in own
    default = [
        trace
        for trace in figures["history"]["data"]
        if trace.get("name") == "documented default 50.00 %"
    ]
    assert default and default[0]["y"] == [50.0, 50.0]
    marks = next(trace for trace in figures["curves"]["data"] if trace["name"] == "pruned here")
    assert (marks["x"], marks["y"]) == ([2], [20.0])
    for figure in figures.values():
        axes = [value for key, value in figure["layout"].items() if re.match(r"[xy]axis", key)]
        assert all("title" in axis for axis in axes)
    labels = [dimension["label"] for dimension in figures["parallel"]["data"][0]["dimensions"]]
    assert labels == ["lr (log)", "rotation_update", "warm_up", "val/top1 (%)"]


def test_both_files_are_written(folder: SweepFolder, tmp_path: Path) -> None:
    report = write_report(folder, tmp_path / "new")
    page_file, picture = report.files
    assert page_file.read_text().startswith("<!doctype html>") and picture.read_bytes().startswith(
        b"\x89PNG"
    )
    assert report.to_dict()["best"]["trial"] == 5 and report.to_dict()["default_top1"] == 50.0


@pytest.mark.parametrize(
    ("trials", "missing"),
    [
        (
            [],
            [
                "No trial has finished an epoch yet.",
                "Not computed: 0 trial(s) ran to their end, and it takes at least 4.",
            ],
        ),
        (TRIALS[:2], ["Not computed: 1 trial(s) ran to their end, and it takes at least 4."]),
        ([(0.1, 4, 10.0)] * 4, ["Not computed: all complete trials have the same score."]),
    ],
)
def test_what_cannot_be_shown_yet_says_why(
    tmp_path: Path, trials: list[Any], missing: list[str]
) -> None:
    report = write_report(sweep(tmp_path / "young", trials))
    text = report.files[0].read_text()
    assert all(sentence in text for sentence in missing)
    assert "importance" not in figures_in(text)


def test_the_sweeps_page_in_mlflow_says_the_result_first(folder: SweepFolder) -> None:
    note = description(gather(folder), folder, "7")
    first = note.partition("\n")[0]
    assert first.startswith(
        "**trial 5 reaches val/top1 80.00 %, +30.00 points against the documented default's 50.00 "
        "%.**"
    )
    assert (
        "(#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=look-1)"
        in first
    )
    assert "**Budget.** 6 trials" in note and "`rbnn replay 00000000 --verify`" in note
    assert "**80.00**" in note and "0 (documented default)" in note


def test_ticks_of_a_log_axis_are_round_and_few() -> None:
    assert log_ticks([1, 16])["ticktext"] == ["1", "2", "5", "10", "20"]
    assert log_ticks([0.001, 1.0])["ticktext"] == ["0.001", "0.01", "0.1", "1"]


def test_a_log_axis_of_parallel_coordinates_has_its_ends_and_round_values_between() -> None:
    found = ticks(Axis("lr", True, ()), [math.log10(0.024), math.log10(0.156)])
    assert found["ticktext"] == ["0.024", "0.05", "0.1", "0.156"]
    assert found["tickvals"] == pytest.approx(
        [math.log10(float(text)) for text in found["ticktext"]]
    )


def test_a_look_at_a_sweep_loads_nothing_that_takes_seconds(folder: SweepFolder) -> None:
    code = (
        "import sys; from tune.cli.__main__ import main; from tune.sweep.folder import "
        "SweepFolder; from tune.report.data import gather;"
        f"from pathlib import Path; assert main(['status', {str(folder.directory)!r}]) == 0;"
        f"assert gather(SweepFolder(Path({str(folder.directory)!r}))).importance;"
        "print({'torch', 'ray', 'mlflow', 'sklearn'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n"), done.stdout


def test_the_best_and_the_documented_default_have_one_colour_in_every_figure(
    folder: SweepFolder,
) -> None:
    data = gather(folder)
    found = figures_in(page(data))
    colours = {trace["name"]: trace["line"]["color"] for trace in found["diagnostics"]["data"]}
    curves = {
        trace["name"]: trace["line"]["color"]
        for trace in found["curves"]["data"]
        if "line" in trace
    }
    assert colours["trial 5"] == trial_colours(data)[5] == curves["best, trial 5"]
    assert colours["trial 0"] == curves["documented default, trial 0"] != colours["trial 5"]
