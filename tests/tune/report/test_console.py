"""What a sweep says in the terminal: its table, its verdict, its lines while it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rbnn.data.loading import DataInfo
from tune.report.console import SweepDisplay, opening, print_result
from tune.report.table import as_html, as_markdown, print_table, verdict
from tune.run.folder import RunFolder, State
from tune.sweep.config import parse_sweep
from tune.sweep.plan import SweepPlan
from tune.sweep.stop import StopSignal
from tune.sweep.table import TrialRow, TrialTable


def row(number: int, state: State, epochs: int, top1: float | None, peak: float = 0) -> TrialRow:
    best = max(top1 or 0.0, peak) if top1 is not None else None
    values = {"lr": 0.1 * (number + 1), "warm_up": True}
    run = f"{number:x}" * 32
    return TrialRow(number, values, run, state, epochs, top1, best, best_epoch=5)


def table(*rows: TrialRow) -> TrialTable:
    return TrialTable("s", 4, 10, {one.number: one for one in rows}, began=0.0)


DEFAULT, BEST = row(0, "complete", 10, 80.0), row(2, "complete", 10, 85.5)
OTHERS = [row(3, "failed", 0, None), row(4, "running", 3, 20.0)]
ROWS = [DEFAULT, row(1, "pruned", 6, 95.0), BEST, *OTHERS]
REACHES = "trial 2 reaches val/top1 85.50 %, {} points against the documented default's {}"


def shown(board: TrialTable) -> SweepDisplay:
    display = SweepDisplay()
    display.trials_began(board)
    return display


def test_fresh_seeds_decide_which_trial_is_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    confirmed = replace(table(*ROWS), confirmed=0)
    print_result(confirmed, StopSignal(), ["trial 0 it is"], "s", "http://mlflow/view")
    text = capsys.readouterr().out
    assert "run the winner again, to the bit:  rbnn replay 00000000" in text
    assert "best by fresh seeds, documented default" in text and "http://mlflow/view" in text


def test_a_time_budget_is_said_to_be_of_the_search_alone() -> None:
    base, space = {"dataset": "digits", "epochs": 3}, {"lr": {"log": [0.01, 1]}}
    keys = {"base": base, "space": space, "time_budget_min": 0.5, "confirm_seeds": 3}
    file = parse_sweep({"name": "look", **keys}, Path())
    data = DataInfo("digits", "sha256:ab", {"train": 1400})
    text = opening(SweepPlan(file, "look", Path("result"), file.baseline, data, 1, 1.0, 0.0))
    after = "ends after 0.5 minutes; confirming the best, up to 12 runs, comes after it\n"
    assert f"time budget: the search {after}" in text


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "no trial ran to its end"),
        ([row(0, "pruned", 6, 30.0)], "no trial ran to its end"),
        (ROWS, REACHES.format("+5.50", "80.00 %")),
        (
            [row(0, "complete", 10, 10.08, peak=64.7), BEST],
            REACHES.format("+75.42", "10.08 % (best epoch: 64.70 % in epoch 5 of 10)"),
        ),
        (ROWS[:2], "the documented default is the best of 2 trials, val/top1 80.00 %"),
        (
            [row(0, "pruned", 6, 30.0), BEST],
            REACHES.format("+55.50", "30.00 %, pruned after 6 epochs"),
        ),
        (
            [row(0, "failed", 0, None), BEST],
            "best: trial 2 with val/top1 85.50 %; the documented default did not finish an epoch",
        ),
    ],
)
def test_the_verdict_compares_with_the_documented_default(
    rows: list[TrialRow], sentence: str
) -> None:
    assert verdict(table(*rows)) == sentence


def test_the_table_marks_the_best_and_the_default_and_always_shows_the_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = ["trial", "state", "epochs", "val/top1", "lr", "warm_up", "run"]
    best = ["2", "complete", "10/10", "85.50", "0.3", "yes", "22222222", "best"]
    default = ["0", "complete", "10/10", "80.00", "0.1", "yes", "00000000", "documented default"]
    print_table(table(*ROWS), 1)
    assert capsys.readouterr().out.split() == " ".join([*head, *best, *default]).split()
    markdown = as_markdown(table(*ROWS), 1)
    assert markdown[0] == f"| {' | '.join(head)} |  |"
    bold = [f"**{cell}**" for cell in best]
    assert markdown[2:] == [f"| {' | '.join(cells)} |" for cells in (bold, default)]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", as_html(table(*ROWS), 1))
    assert cells == best + default


def test_without_a_terminal_starts_and_ends_are_plain_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = TrialRow(0, {"lr": 0.1})
    display = shown(table(started))
    for change in ({}, {"epochs": 1, "top1": 9.0}, {"state": "failed", "cause": "boom"}):
        vars(started).update(change)
        display.run_began(RunFolder(Path("trials/0000")))
    display.run_ended(RunFolder(Path("another-run")))
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    failed = "trial 0 failed after 1 epochs, val/top1 9.00 %: boom"
    assert lines == ["trial 0 starts: lr 0.1", failed]


@pytest.mark.parametrize(("epochs", "state"), [(3, "short"), (2, "pruned")])
def test_a_short_schedule_that_ran_to_its_end_is_not_called_pruned(
    epochs: int, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = TrialRow(1, {"lr": 0.1, "epochs": 3}, state="pruned", epochs=epochs, top1=20.0)
    shown(table(row)).run_began(RunFolder(Path("trials/0001")))
    said = "ends its short schedule" if state == "short" else "pruned"
    assert f"trial 1 {said} after {epochs} epochs, val/top1 20.00 %" in capsys.readouterr().out
    assert as_markdown(table(row), 1)[2].startswith(f"| 1 | {state} | {epochs}/3 |")


def test_the_best_so_far_never_falls_and_the_finish_says_whether_it_includes_confirming() -> None:
    fallen = TrialRow(0, {"lr": 0.1}, epochs=6, top1=27.0, best_top1=52.0)
    assert "best top-1 52.00 %" in shown(table(fallen)).summary()
    search = table(DEFAULT)
    assert "included" not in shown(search).summary()
    search.epochs_after = 40
    summary = shown(search).summary()
    assert re.search(r"finish about [-\d: ]+, confirmation included$", summary)
