"""What is proposed depends on the seed, the trial's number and the study, and not on the process
that asks.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from rbnn.recipe import Recipe
from tune.sweep.proposals import LEAST_FOR_GP, Proposals, seed_of
from tune.sweep.space import Space
from tune.sweep.study import LEARNED, VALUES, Study

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
    assert len({values["lr"] for values in alone[1:]}) == 7
    assert play(Study(None, "s"), proposals(sampler, seed=2), 2)[1] != alone[1]


def test_a_given_trial_cut_off_while_it_began_begins_again_alike(tmp_path: Path) -> None:
    history, made = Study(f"sqlite:///{tmp_path}/optuna.db", "s"), proposals("random")
    made.enqueue(history)
    history.begin(history.trials()[0], {"lr": 0.1}, SPACE.distributions, {})  # the rest is lost
    history.interrupt_running()
    again = proposals("random").next(history)
    assert again is not None and again.number == 0
    assert again.user_attrs[VALUES] == {"lr": 0.1, "Tmin": 0.5, "warm_up": False}


def test_seeds_of_trials_differ() -> None:
    assert len({seed_of(seed, number) for seed in range(5) for number in range(50)}) == 250


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_proposed_values_have_four_digits_and_are_what_the_study_holds(sampler: str) -> None:
    history = Study(None, "s")
    for values in play(history, proposals(sampler), 7)[1:]:
        assert all(value == float(f"{value:.4g}") for value in (values["lr"], values["Tmin"]))
    assert all(SPACE.values(t.params) == t.user_attrs[VALUES] for t in history.trials())


def test_gp_learns_from_trials_that_were_stopped_too() -> None:
    history = Study(None, "s")
    made = Proposals(SPACE, sampler="gp", seed=1, num_trials=20, lengths=[1, 3])
    for number in range(18):
        trial = made.next(history)
        assert trial is not None
        drawn = SPACE.values(made.random_point(number), rounded=True)
        is_random = 0 < number < LEAST_FOR_GP or number in (13, 15, 17)
        assert (trial.user_attrs[VALUES] == drawn) == is_random
        history.note(number, 1, -abs(math.log(trial.params["lr"] / 0.3)))
        history.end(number, TrialState.PRUNED)
    points = [tuple(trial.params.values()) for trial in history.trials()]
    assert points[0][:2] == (0.1, 0.55)  # the middle
    assert sum(0.2 < lr < 0.45 for lr, *_ in points[8:]) >= 5 and len(set(points)) == 18


@pytest.mark.parametrize(("num_learned", "lengths"), [(0, "9111111999"), (4, "9119999999")])
def test_trials_learned_from_stand_for_as_many_short_ones(num_learned: int, lengths: str) -> None:
    history = Study(None, "s")
    made = Proposals(
        SPACE, sampler="gp", num_trials=20, first=[{"lr": 0.1}], lengths=[1, 3, 9], short=True
    )
    made.enqueue(history)
    points = [made.random_point(100 + number) for number in range(num_learned)]
    for point in points:
        known = {LEARNED: "earlier/1"}
        ended = create_trial(
            value=point["lr"],
            params=point,
            distributions=SPACE.distributions,
            user_attrs=known,
            intermediate_values={9: point["lr"]},
        )
        history.study.add_trial(ended)
    found = ""
    for _ in lengths:
        trial = made.next(history)
        assert trial is not None
        length = trial.user_attrs[VALUES].get("epochs", 9)
        found += str(length)
        history.note(trial.number, length, trial.params["lr"])
        state = TrialState.COMPLETE if length == 9 else TrialState.PRUNED
        history.end(trial.number, state, trial.params["lr"] if length == 9 else None)
    assert found == lengths


@pytest.mark.parametrize(
    ("sampler", "num_trials", "lengths"),
    [
        ("random", 2, "99"),
        ("random", 8, "91113119"),  # two compared before one goes on; the last is a whole training
        ("random", 20, "91111113311131113999"),
        ("random", 60, "111111113313111391113111391113111311139911131113111391999999"),
        # gp trains whole once it has seen six settings short, half of a few trials
        ("gp", 60, "111111" + 54 * "9"),
        ("gp", 30, "9111111" + 23 * "9"),
        ("gp", 8, "91119999"),
        ("gp", 2, "99"),
    ],
)
def test_short_schedules_lead_to_longer_ones_and_the_last_to_whole_trainings(
    sampler: str, num_trials: int, lengths: str
) -> None:
    history, first = Study(None, "s"), [{"lr": 0.1}, {"lr": 0.2}]
    ladder = {"lengths": [1, 3, 9], "short": True, "factor": 3}
    made = Proposals(SPACE, sampler=sampler, num_trials=num_trials, first=first, **ladder)
    made.enqueue(history)
    tried: dict[int, list[float]] = {1: [], 3: [], 9: []}
    known = ""
    for _ in range(num_trials):
        trial = made.next(history)
        assert trial is not None
        values = trial.user_attrs[VALUES]
        length = values.get("epochs", 9)
        known += str(length)
        tried[length].append(values["lr"])
        history.note(trial.number, length, values["lr"])
        state = TrialState.COMPLETE if length == 9 else TrialState.PRUNED
        history.end(trial.number, state, values["lr"] if length == 9 else None)
    assert known == lengths and tried[9].count(0.1) == 1  # the baseline, always whole
    for shorter, longer in ((1, 3), (3, 9)):
        if tried[shorter] and sampler == "random":
            assert max(tried[shorter]) in tried[longer]  # the best of all has gone on
    if sampler == "gp" and tried[1]:  # the first that is trained whole follows what was best short
        assert next(lr for lr in tried[9] if lr != 0.1) > 0.7 * max(tried[1])
    values = history.trials()[0].user_attrs[VALUES]
    assert values == {"lr": 0.1, "Tmin": 0.5, "warm_up": False}
