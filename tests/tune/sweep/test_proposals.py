"""What is proposed depends on the seed, the trial's number and the study, and not on the process
that asks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from rbnn.recipe import Recipe
from tune.sweep.proposals import Proposals, seed_of
from tune.sweep.space import Space
from tune.sweep.study import VALUES, Study

SPACE = Space(
    {"lr": {"log": [0.01, 1]}, "Tmin": {"linear": [0.1, 1]}, "warm_up": "boolean"},
    Recipe(Tmin=0.5, Tmax=3),
)


def proposals(sampler: str, seed: int = 1) -> Proposals:
    return Proposals(SPACE, sampler=sampler, seed=seed, num_trials=8, first=[{"lr": 0.1}])


def play(history: Study, made: Proposals, num_trials: int) -> list[dict[str, object]]:
    made.enqueue(history)
    found = []
    for _ in range(num_trials):
        trial = made.next(history)
        assert trial is not None
        found.append(trial.user_attrs[VALUES])
        history.end(trial.number, TrialState.COMPLETE, -abs(trial.user_attrs[VALUES]["lr"] - 0.3))
    return found


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_process_that_takes_over_proposes_what_the_first_would_have(
    sampler: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    alone = play(Study(None, "s"), proposals(sampler), 8)
    shared = [values for _ in range(4) for values in play(Study(url, "s"), proposals(sampler), 2)]
    assert shared == alone
    assert len({values["lr"] for values in alone}) == 8
    assert play(Study(None, "s"), proposals(sampler, seed=2), 2)[1] != alone[1]


def test_a_trial_cut_off_while_it_was_proposed_is_proposed_again_alike(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    history = Study(url, "s")
    expected = play(history, proposals("random"), 3)[2]
    cut_off = Study(f"sqlite:///{tmp_path}/other.db", "s")
    play(cut_off, proposals("random"), 2)
    trial = cut_off.study.ask()  # its number is taken, its values are not there
    cut_off.interrupt_running()
    again = proposals("random").next(cut_off)
    assert again is not None and again.number == trial.number == 2
    assert again.user_attrs[VALUES] == expected


def test_seeds_of_trials_differ() -> None:
    assert len({seed_of(seed, number) for seed in range(5) for number in range(50)}) == 250


def test_gp_learns_also_where_most_trials_are_stopped_early() -> None:
    """Its own count of trials to learn from holds complete ones only: with early stopping, 20
    trials never reached ten.
    """
    history, made = Study(None, "s"), Proposals(SPACE, sampler="gp", seed=1, num_trials=20)
    for number in range(10):
        trial = made.next(history)
        assert trial is not None and trial.params == made.random_point(number)
        history.note(number, 1, 0.5)
        stays = number in (2, 5, 8)
        history.end(
            number,
            TrialState.COMPLETE if stays else TrialState.PRUNED,
            trial.params["lr"] if stays else None,
        )
    trial = made.next(history)
    assert trial is not None and trial.params != made.random_point(10)
