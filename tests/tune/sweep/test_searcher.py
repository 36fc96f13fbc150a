"""tune.sweep.searcher against real Optuna storages: what a study holds after trials that end in
every way. No Ray cluster.
"""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from rbnn.recipe import Recipe
from tune.sweep.proposals import Proposals
from tune.sweep.searcher import OptunaSearcher
from tune.sweep.space import Space
from tune.sweep.study import Study
from tune.sweep.trial import TrialSpec

BASELINE = Recipe()
ENTRIES = {
    "lr": {"log": [0.01, 1]},
    "Tmin": {"log": [0.001, 5]},
    "Tmax": {"log": [0.5, 30]},
    "rotation_update": {"integer": [1, 5]},
    "warm_up": "boolean",
}
GRID = {"rotation_update": {"integer": [1, 3]}, "warm_up": "boolean"}
NUM_EPOCHS = 3


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "memory" else f"sqlite:///{tmp_path}/optuna.db"


def searcher(
    storage: str | None = None, entries: dict[str, Any] = ENTRIES, **options: Any
) -> OptunaSearcher:
    proposals = Proposals(Space(entries, BASELINE), **{"first": [BASELINE.to_dict()], **options})
    return OptunaSearcher(Study(storage, "s"), NUM_EPOCHS, proposals)


def row(epoch: int, score: float) -> dict[str, Any]:
    return {"epoch": epoch, "val/top1": score}


def play(search: OptunaSearcher, trial_id: str, num_epochs: int = NUM_EPOCHS) -> dict[str, Any]:
    """One trial as Ray notifies it, scored by its learning rate; returns its overrides."""
    overrides = search.suggest(trial_id)["values"]
    scores = [epoch * overrides["lr"] for epoch in range(1, num_epochs + 1)]
    for epoch, score in enumerate(scores[:-1], start=1):
        search.on_trial_result(trial_id, row(epoch, score))
    search.on_trial_complete(trial_id, row(num_epochs, scores[-1]))
    return overrides


def states(search: OptunaSearcher) -> list[str]:
    return [trial.state.name for trial in search.history.trials()]


def test_the_baseline_is_the_first_trial_and_all_carry_their_recipe_values(
    storage: str | None,
) -> None:
    search = searcher(storage)
    baseline = {name: BASELINE.to_dict()[name] for name in ENTRIES}
    assert search.suggest("a") == TrialSpec(0, baseline).to_config()
    values = search.suggest("b")["values"]
    assert search.history.trials()[1].user_attrs["values"] == values
    assert values["Tmin"] < values["Tmax"]


@pytest.mark.parametrize(
    ("num_epochs", "state"), [(3, TrialState.COMPLETE), (2, TrialState.PRUNED)]
)
def test_a_trial_is_complete_or_pruned_with_its_last_score(
    num_epochs: int, state: TrialState, storage: str | None
) -> None:
    search = searcher(storage)
    play(search, "a", num_epochs)
    trial, scores = search.history.trials()[0], {1: 0.1, 2: 0.2, 3: 0.3}
    assert (trial.state, trial.value) == (state, pytest.approx(scores[num_epochs]))
    known = {epoch: scores[epoch] for epoch in range(1, num_epochs + 1)}
    assert trial.intermediate_values == pytest.approx(known)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        *((None, True), (None, False), (row(3, 0.5), True)),
        *(({"epoch": 1}, False), (row(3, math.nan), False)),
    ],
)
def test_an_error_or_no_score_is_a_failure(
    storage: str | None, result: dict[str, Any] | None, error: bool
) -> None:
    search = searcher(storage)
    search.suggest("a")
    search.on_trial_complete("a", result, error)
    assert states(search) == ["FAIL"]


def test_what_optunas_own_tools_line_up_is_run_like_one_of_ours(storage: str | None) -> None:
    search = searcher(storage)
    search.suggest("a")
    search.history.study.enqueue_trial({"lr": 0.05})
    values = search.suggest("b")["values"]
    assert values["lr"] == 0.05 and values.keys() == ENTRIES.keys()


def test_tpe_learns_where_the_scores_are_high() -> None:
    search = searcher(num_trials=12)
    rates = [play(search, str(number))["lr"] for number in range(30)]
    assert sum(rates[-10:]) > sum(rates[:10])


def test_a_grid_tries_the_baseline_then_every_other_point_and_ends() -> None:
    search = searcher(entries=GRID, sampler="grid")
    seen = [search.suggest(str(number))["values"] for number in range(6)]
    assert seen[0] == {"rotation_update": 1, "warm_up": False}
    assert len({tuple(overrides.values()) for overrides in seen}) == 6
    assert search.suggest("6") == search.FINISHED


def test_an_interrupted_trial_goes_on_first_with_all_that_is_known(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    dead = searcher(url)
    play(dead, "a")
    cut_off = dead.suggest("b")
    dead.on_trial_result("b", row(1, 1.0))
    dead.interrupt()
    search = searcher(url)
    assert states(search) == ["COMPLETE", "WAITING"]
    assert search.suggest("c") == {**cut_off, "epochs_done": 1}
    search.on_trial_complete("c", row(NUM_EPOCHS, 5.0))
    assert states(search) == ["COMPLETE", "COMPLETE"]
    assert search.history.trials()[1].intermediate_values == {1: 1.0, 3: 5.0}


def test_trials_that_wait_with_their_values_are_handed_out_and_then_the_search_ends(
    tmp_path: Path,
) -> None:
    history = Study(f"sqlite:///{tmp_path}/optuna.db", "s.confirm")
    given = {"values": {"lr": 0.1, "seed": 9}, "setting": 4, "test": True}
    history.add(TrialState.WAITING, {}, {}, given)
    search = OptunaSearcher(history, NUM_EPOCHS)
    spec = TrialSpec(0, {"lr": 0.1, "seed": 9}, test=True, setting=4)
    assert search.suggest("a") == spec.to_config()
    assert search.suggest("b") == search.FINISHED
    search.on_trial_complete("a", {**row(NUM_EPOCHS, 80.0), "test/top1": 79.0})
    trial = search.history.trials()[0]
    assert (trial.value, trial.user_attrs["test/top1"]) == (80.0, 79.0)


def test_a_repeated_epoch_replaces_its_score_and_a_second_end_changes_nothing(
    storage: str | None,
) -> None:
    search = searcher(storage)
    search.suggest("a")
    search.on_trial_result("a", row(1, 1.0))
    search.on_trial_result("a", row(1, 1.5))
    search.on_trial_complete("a", row(2, 2.0))
    search.on_trial_complete("a", row(3, 9.0))
    search.on_trial_complete("a", error=True)
    assert (states(search), search.history.trials()[0].value) == (["PRUNED"], 2.0)
    assert search.history.trials()[0].intermediate_values == {1: 1.5, 2: 2.0}


def test_a_pickled_searcher_keeps_its_study_and_draws_on(storage: str | None) -> None:
    search = searcher(storage)
    first = [play(search, trial_id)["lr"] for trial_id in "abc"]
    for other in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search)):
        assert other.history.trials()[0].value == search.history.trials()[0].value
        assert other.suggest("d")["values"]["lr"] not in first
        other.interrupt()
