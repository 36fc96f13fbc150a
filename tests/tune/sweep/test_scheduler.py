"""ASHA from the study: equal to Ray's on the same reports, without memory, and never in a trial's
last epoch.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune.sweep.scheduler import SuccessiveHalving, bracket_of, goes_on, rungs
from tune.sweep.study import VALUES, Study

METRIC = "val/top1"


def trial(number: int, error: str = "") -> Any:
    """What schedulers read of a trial of Ray's."""
    about = {"trial_id": str(number), "config": {"number": number}}
    return SimpleNamespace(**about, pickled_error_file=error)


def history_of(num_trials: int, storage: str | None = None) -> Study:
    history = Study(storage, "s")
    for _ in range(num_trials):
        history.study.ask().set_user_attr(VALUES, {})
    return history


def halving(
    history: Study, num_epochs: int = 9, grace: int | None = 1, factor: float = 3, **given: Any
) -> SuccessiveHalving:
    return SuccessiveHalving(history, num_epochs, grace, reduction_factor=factor, **given)


def decide(scheduler: Any, number: int, epoch: int, score: float) -> str:
    answer: str = scheduler.on_trial_result(None, trial(number), {"epoch": epoch, METRIC: score})
    return answer


def test_rungs() -> None:
    assert [rungs(60, 3, 400), rungs(60, 3, 400, bracket=1)] == [[60, 180], [180]]
    assert [rungs(9, 3, 12), rungs(4, 3, 4), rungs(1, 2.5, 10)] == [[9], [], [1, 3, 7]]


def test_the_best_share_goes_on() -> None:
    assert goes_on(1.0, [], 3)
    scores = {9.0: False, 20.0: False, 23.4: True, 30.0: True}
    assert {score: goes_on(score, [10.0, 20.0, 30.0], 3) for score in scores} == scores


@pytest.mark.parametrize("seed", range(30))
def test_it_decides_as_rays_does_on_the_same_reports(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    num_epochs, grace = draw.choice([9, 12, 27, 30]), draw.choice([1, 2, 4])
    factor, brackets = draw.choice([2, 3, 4, 2.5]), draw.choice([1, 1, 2])
    history = history_of(9)
    ours = halving(history, num_epochs, grace, factor, brackets=brackets, seed=seed)
    settings = {"max_t": num_epochs, "grace_period": grace, "reduction_factor": factor}
    settings |= {"time_attr": "epoch", "metric": METRIC, "mode": "max", "brackets": brackets}
    theirs = AsyncHyperBandScheduler(**settings)
    sizes = [len(bracket) for bracket in ours.rungs]
    for number in range(1, 9):
        drawn = bracket_of(number, seed, sizes)
        monkeypatch.setattr(np.random, "choice", Mock(return_value=drawn))
        theirs.on_trial_add(None, trial(number))
    epochs = dict.fromkeys(range(1, 9), 0)
    while epochs:
        number = draw.choice(sorted(epochs))
        epochs[number] += 1
        score = round(draw.uniform(0, 100), 1)
        answer = decide(ours, number, epochs[number], score)
        expected = decide(theirs, number, epochs[number], score)
        history.note(number, epochs[number], score)
        last = epochs[number] == num_epochs  # Ray calls the end a stop
        assert answer == (TrialScheduler.CONTINUE if last else expected)
        if expected == TrialScheduler.STOP:
            del epochs[number]


def test_a_new_process_decides_as_the_old_one_would_have_and_never_stops_the_baseline(
    tmp_path: Path,
) -> None:
    history = history_of(4, f"sqlite:///{tmp_path}/optuna.db")
    for number, score in ((0, 10.0), (1, 20.0), (2, 30.0)):
        history.note(number, 1, score)
    for scheduler in (halving(history), pickle.loads(pickle.dumps(halving(history)))):
        assert decide(scheduler, 3, 1, 15.0) == TrialScheduler.STOP
        assert decide(scheduler, 3, 1, 25.0) == TrialScheduler.CONTINUE
        assert decide(scheduler, 0, 1, 10.0) == TrialScheduler.CONTINUE
    assert decide(halving(history, grace=None), 3, 1, 15.0) == TrialScheduler.CONTINUE


def test_an_epoch_reported_again_is_judged_again_only_while_it_is_the_last() -> None:
    history = history_of(3)
    for number, score in ((0, 50.0), (1, 60.0), (2, 10.0)):
        history.note(number, 1, score)
    scheduler = halving(history)
    assert decide(scheduler, 2, 1, 10.0) == TrialScheduler.STOP
    history.note(2, 2, 11.0)
    assert decide(scheduler, 2, 1, 10.0) == TrialScheduler.CONTINUE


def test_brackets_are_drawn_from_seed_and_number_alone() -> None:
    drawn = [bracket_of(number, 5, [3, 2]) for number in range(400)]
    assert drawn == [bracket_of(number, 5, [3, 2]) for number in range(400)]
    assert 0.65 < drawn.count(0) / 400 < 0.81  # e / (e + 1) = 0.73


def test_a_failure_leaves_its_cause_in_the_study(
    error_file: Callable[[BaseException], Path],
) -> None:
    history, cause = history_of(1), MemoryError("cannot allocate")
    halving(history).on_trial_error(None, trial(0, str(error_file(cause))))
    assert history.trials()[0].user_attrs["cause"].startswith("out of memory: ")
