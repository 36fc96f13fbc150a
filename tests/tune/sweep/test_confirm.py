"""Confirmation: which settings, what a difference is worth, and the table; no Ray, no store."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState
from scipy import stats

from tune.sweep.confirm import (
    Setting,
    against_default,
    chosen,
    confirmation_table,
    difference,
    settings_of,
    spread,
)
from tune.sweep.study import VALUES, Study
from tune.sweep.table import State, TrialRow


def row(number: int, state: State, top1: float | None) -> TrialRow:
    return TrialRow(number, {"lr": 0.1}, "", state, 3, top1, top1)


def rows(*given: TrialRow) -> dict[int, TrialRow]:
    return {one.number: one for one in given}


def test_the_best_complete_trials_and_the_default_are_chosen() -> None:
    first = row(0, "pruned", 10.0), row(1, "complete", 70.0)
    trials = rows(*first, row(2, "pruned", 99.0), row(3, "complete", 80.0))
    assert chosen(trials, 1) == [3, 0]
    assert chosen(trials, 3) == [3, 1, 0]
    assert chosen(rows(row(0, "complete", 90.0), row(1, "complete", 80.0)), 1) == [0]
    assert chosen(rows(row(0, "failed", None)), 3) == []


def test_a_difference_is_judged_by_welchs_test() -> None:
    ours, theirs = [85.2, 85.9, 85.6], [84.1, 84.4, 83.2]
    found = difference(ours, theirs)
    welch = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert found.points == pytest.approx((low + high) / 2)
    assert found.margin == pytest.approx((high - low) / 2)
    assert found.exceeds_noise == (welch.pvalue < 0.05)


def test_one_seed_cannot_tell_and_equal_scores_differ_by_nothing() -> None:
    assert difference([85.0], [80.0, 81.0]).margin is None
    assert not difference([85.0], [80.0]).exceeds_noise
    assert difference([80.0, 80.0], [80.0, 80.0]) == difference([1.0, 1.0], [1.0, 1.0])
    assert not difference([80.0, 80.0], [80.0, 80.0]).exceeds_noise
    assert difference([81.0, 81.0], [80.0, 80.0]).exceeds_noise


def test_settings_are_ranked_by_validation_and_compared_on_the_test_set() -> None:
    history = Study(None, "s.confirm")
    for setting, val, test in ((4, 85.0, 80.0), (0, 84.0, 82.0), (4, 86.0, 80.4), (0, 84.4, 82.2)):
        history.add(TrialState.WAITING, {}, {}, {VALUES: {}, "setting": setting})
        trial = history.take_interrupted()
        assert trial is not None
        history.tag(trial.number, "test/top1", test)
        history.end(trial.number, TrialState.COMPLETE, val)
    best, default = settings_of(history)
    assert (best.number, best.val, best.test) == (4, [85.0, 86.0], [80.0, 80.4])
    assert against_default(best, default).startswith("-1.90 points, exceeds the noise (")
    assert against_default(default, default) == "documented default"


def test_the_table_says_what_was_compared() -> None:
    lines = confirmation_table([Setting(4, [85.0, 86.0]), Setting(0, [84.0, 84.4])])
    assert lines[0].split()[:5] == ["trial", "seeds", "val/top1", "test/top1", "against"]
    assert lines[1].split()[:6] == ["4", "2", "85.50", "±", "0.71", "-"]
    assert "is within the noise" in lines[1]
    assert "compared on the validation split" in lines[3]
    tested = confirmation_table([Setting(4, [85.0], [80.0])])
    assert "the documented default did not finish" in tested[1]
    assert "the test set, evaluated once" in tested[2]
    assert (spread([]), spread([80.0]), spread([80.0, 82.0])) == ("-", "80.00", "81.00 ± 1.41")
