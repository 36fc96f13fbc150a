"""The board of a sweep: order of merit, the winner, the verdict and the time left; no Ray, no
store.
"""

from __future__ import annotations

import pytest

from tune.run.folder import State
from tune.sweep import table as board_module
from tune.sweep.table import TrialRow, TrialTable, columns, percent, shown


def row(number: int, state: State, epochs: int, top1: float | None, cause: str = "") -> TrialRow:
    return TrialRow(
        number,
        {"lr": 0.1 * (number + 1), "warm_up": True},
        f"{number:032x}",
        state,
        epochs,
        top1,
        top1,
        cause,
    )


def board(*rows: TrialRow, num_trials: int = 4, num_epochs: int = 10) -> TrialTable:
    return TrialTable("s", num_trials, num_epochs, {one.number: one for one in rows}, began=0.0)


ROWS = [
    row(0, "complete", 10, 80.0),
    row(1, "pruned", 6, 95.0),
    row(2, "complete", 10, 85.5),
    row(3, "failed", 0, None, "the loss is not finite"),
    row(4, "running", 3, 20.0),
]


def test_complete_trials_rank_before_stopped_ones_however_good_these_looked() -> None:
    assert [one.number for one in board(*ROWS).ranked] == [2, 0, 1, 4, 3]


def test_the_winner_is_the_best_complete_trial_the_earlier_of_equals() -> None:
    best = board(*ROWS).best
    assert best is not None and best.number == 2
    tied = board(row(1, "complete", 10, 80.0), row(0, "complete", 10, 80.0)).best
    assert tied is not None and tied.number == 0
    assert board(*ROWS[1:2], *ROWS[3:]).best is None


def test_running_and_ended_trials_are_told_apart() -> None:
    assert [one.number for one in board(*ROWS).running] == [4]


def test_the_time_left_follows_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module.time, "monotonic", lambda: 100.0)
    assert board().seconds_left() is None
    # 20 epochs took 100 s; one trial of the usual 10 epochs is to come, and half of the running
    # one.
    rows = [row(0, "complete", 10, 1.0), row(1, "pruned", 5, 1.0), row(2, "running", 5, 1.0)]
    assert board(rows[0], rows[2], num_trials=3).seconds_left() == pytest.approx(
        (10 + 5) * 100 / 15
    )
    assert board(*rows, num_trials=3).seconds_left() == pytest.approx(2.5 * 100 / 20)
    assert board(rows[0], num_trials=1).seconds_left() == 0


def test_the_time_left_counts_the_confirmation_and_a_time_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board_module.time, "monotonic", lambda: 100.0)
    search = board(row(0, "complete", 10, 1.0), num_trials=3)
    assert search.seconds_left() == pytest.approx(20 * 10)
    search.epochs_after = 40
    assert search.seconds_left() == pytest.approx((20 + 40) * 10)
    search.budget_s = 130.0
    assert search.seconds_left() == pytest.approx(30 + 40 * 10)
    search.num_trials, search.budget_s = None, 90.0
    assert search.seconds_left() == pytest.approx(40 * 10)
    search.budget_s = None
    assert search.seconds_left() is None


def test_values_for_people() -> None:
    assert [shown(value) for value in (True, 0.123456, 3, "cos")] == ["yes", "0.123", "3", "cos"]
    assert (percent(None), percent(12.5)) == ("-", "12.50")
    assert columns(ROWS) == ["lr", "warm_up"] and columns([]) == []
