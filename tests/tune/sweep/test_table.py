"""The board of a sweep: order of merit, the winner, the verdict and the time left; no Ray, no
store.
"""

from __future__ import annotations

import pytest

from tune.run.folder import State
from tune.sweep import table as board_module
from tune.sweep.table import TrialRow, TrialTable, columns, percent, shown


def row(number: int, state: State, epochs: int, top1: float | None, cause: str = "") -> TrialRow:
    values = {"lr": 0.1 * (number + 1), "warm_up": True}
    return TrialRow(number, values, f"{number:032x}", state, epochs, top1, top1, cause)


def board(*rows: TrialRow, num_trials: int = 4, num_epochs: int = 10) -> TrialTable:
    return TrialTable("s", num_trials, num_epochs, {one.number: one for one in rows}, began=0.0)


ROWS = [
    row(0, "complete", 10, 80.0),
    row(1, "pruned", 6, 95.0),
    row(2, "complete", 10, 85.5),
    row(3, "failed", 0, None, "the loss is not finite"),
    row(4, "running", 3, 20.0),
]


def test_complete_trials_rank_before_stopped_ones_and_the_earlier_of_equals_wins() -> None:
    known = board(*ROWS)
    assert [one.number for one in known.ranked] == [2, 0, 1, 4, 3]
    assert [one.number for one in known.running] == [4] and known.best is ROWS[2]
    tied = board(row(1, "complete", 10, 80.0), row(0, "complete", 10, 80.0)).best
    assert tied is not None and tied.number == 0
    assert board(*ROWS[1:2], *ROWS[3:]).best is None


def test_the_time_left_follows_the_pace_so_far_with_confirmation_and_time_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board_module.time, "monotonic", lambda: 100.0)
    assert board().seconds_left() is None
    # 20 epochs took 100 s; one trial of the usual 10 epochs is to come, and half of the running
    # one.
    rows = [row(0, "complete", 10, 1.0), row(1, "pruned", 5, 1.0), row(2, "running", 5, 1.0)]
    left = board(rows[0], rows[2], num_trials=3).seconds_left()
    assert left == pytest.approx((10 + 5) * 100 / 15)
    assert board(*rows, num_trials=3).seconds_left() == pytest.approx(2.5 * 100 / 20)
    assert board(rows[0], num_trials=1).seconds_left() == 0
    search = board(rows[0], num_trials=3)
    for changes, seconds in (
        ({}, 20 * 10),
        ({"epochs_after": 40}, (20 + 40) * 10),
        ({"budget_s": 130.0}, 30 + 40 * 10),
        ({"num_trials": None, "budget_s": 90.0}, 40 * 10),
        ({"budget_s": None}, None),
    ):
        vars(search).update(changes)
        assert search.seconds_left() == (seconds if seconds is None else pytest.approx(seconds))


def test_values_for_people() -> None:
    assert [shown(value) for value in (True, 0.123456, 3, "cos")] == ["yes", "0.123", "3", "cos"]
    assert (percent(None), percent(12.5)) == ("-", "12.50")
    assert columns(ROWS) == ["lr", "warm_up"] and columns([]) == []
