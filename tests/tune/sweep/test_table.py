"""The table of a sweep: order of merit, the winner, the verdict and the time left; no Ray, no
store.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tune.report.console import SweepDisplay, print_table, verdict
from tune.report.outcome import print_result
from tune.run.folder import State
from tune.sweep import table as module
from tune.sweep.stop import StopSignal
from tune.sweep.table import TrialRow, TrialTable, columns, percent, shown


def row(number: int, state: State, epochs: int, top1: float | None, cause: str = "") -> TrialRow:
    values = {"lr": 0.1 * (number + 1), "warm_up": True}
    return TrialRow(number, values, f"{number:032x}", state, epochs, top1, top1, cause)


def table(*rows: TrialRow, num_trials: int = 4, num_epochs: int = 10) -> TrialTable:
    return TrialTable("s", num_trials, num_epochs, {one.number: one for one in rows}, began=0.0)


ROWS = [
    row(0, "complete", 10, 80.0),
    row(1, "pruned", 6, 95.0),
    row(2, "complete", 10, 85.5),
    row(3, "failed", 0, None, "the loss is not finite"),
    row(4, "running", 3, 20.0),
]


PRUNED = row(0, "pruned", 6, 30.0)
REACHED = "trial 2 with val/top1 85.50 %"
REACHES = "trial 2 reaches val/top1 85.50 %"
AGAINST_PRUNED = "against the documented default's 30.00 %, where it was pruned after 6 epochs"
UNFINISHED = "the documented default did not finish an epoch"


def test_complete_trials_rank_before_stopped_ones_however_good_these_looked() -> None:
    assert [one.number for one in table(*ROWS).ranked] == [2, 0, 1, 4, 3]


def test_the_winner_is_the_best_complete_trial_the_earlier_of_equals() -> None:
    best = table(*ROWS).best
    assert best is not None and best.number == 2
    tied = table(row(1, "complete", 10, 80.0), row(0, "complete", 10, 80.0)).best
    assert tied is not None and tied.number == 0
    assert table(*ROWS[1:2], *ROWS[3:]).best is None


def test_fresh_seeds_decide_which_trial_is_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    confirmed = table(replace(ROWS[0], run_id="abcdef0123456789"), *ROWS[1:])
    confirmed.confirmed = 0
    print_result(confirmed, StopSignal(), ["trial 0 it is"], "s", "http://mlflow/view")
    text = capsys.readouterr().out
    assert "run the winner again, to the bit:  rbnn replay abcdef01" in text
    assert "best by fresh seeds, the documented default itself" in text
    assert "http://mlflow/view" in text


def test_running_and_ended_trials_are_told_apart() -> None:
    assert [one.number for one in table(*ROWS).running] == [4]


def test_the_time_left_follows_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    assert table().seconds_left() is None
    # 20 epochs took 100 s; one trial of the usual 10 epochs is to come, and half of the running
    # one.
    rows = [row(0, "complete", 10, 1.0), row(1, "pruned", 5, 1.0), row(2, "running", 5, 1.0)]
    assert table(rows[0], rows[2], num_trials=3).seconds_left() == pytest.approx(100)
    assert table(*rows, num_trials=3).seconds_left() == pytest.approx(2.5 * 100 / 20)
    assert table(rows[0], num_trials=1).seconds_left() == 0


def test_the_time_left_counts_the_confirmation_and_a_time_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    search = table(row(0, "complete", 10, 1.0), num_trials=3)
    assert search.seconds_left() == pytest.approx(20 * 10)
    assert "included" not in SweepDisplay(search).summary()
    search.epochs_after = 40
    assert search.seconds_left() == pytest.approx((20 + 40) * 10)
    finish = r"finish about [-\d: ]+, confirmation included$"
    assert re.search(finish, SweepDisplay(search).summary())
    search.budget_s = 130.0
    assert search.seconds_left() == pytest.approx(30 + 40 * 10)
    search.num_trials, search.budget_s = None, 90.0
    assert search.seconds_left() == pytest.approx(40 * 10)
    search.budget_s = None
    assert search.seconds_left() is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "no trial ran to its end"),
        ([PRUNED], "no trial ran to its end"),
        (ROWS, f"{REACHES}, +5.50 points against the documented default's 80.00 %"),
        (ROWS[:2], "the documented default is the best of 2 trials, val/top1 80.00 %"),
        ([PRUNED, ROWS[2]], f"{REACHES}, +55.50 points {AGAINST_PRUNED}"),
        (
            [row(0, "failed", 0, None), ROWS[2]],
            f"best: {REACHED}; {UNFINISHED}",
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
    text = print_table(table(*ROWS), 1)
    lines = text.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:6] == ["trial", "state", "epochs", "val/top1", "lr", "warm_up"]
    assert lines[1].split()[:6] == ["2", "complete", "10/10", "85.50", "0.3", "yes"]
    assert lines[1].rstrip().endswith("best")
    assert lines[2].split()[0] == "0" and lines[2].rstrip().endswith("documented default")
    assert capsys.readouterr().out.split() == text.split()


def test_without_a_terminal_starts_and_ends_are_plain_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = TrialRow(0, {"lr": 0.1})
    with SweepDisplay(table(started)) as display:
        for change in ({}, {"epochs": 1, "top1": 9.0}, {"state": "failed", "cause": "boom"}):
            vars(started).update(change)
            display.changed(started)
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "trial 0 starts: lr 0.1",
        "trial 0 failed after 1 epochs, val/top1 9.00 %: boom",
    ]


def test_the_best_so_far_never_falls_when_a_trial_gets_worse() -> None:
    fallen = TrialRow(0, {"lr": 0.1}, epochs=6, top1=27.0, best_top1=52.0)
    assert "best top-1 52.00 %" in SweepDisplay(table(fallen)).summary()


def test_values_for_people() -> None:
    assert [shown(value) for value in (True, 0.123456, 3, "cos")] == ["yes", "0.123", "3", "cos"]
    assert (percent(None), percent(12.5)) == ("-", "12.50")
    assert columns(ROWS) == ["lr", "warm_up"] and columns([]) == []
