"""The simulator: the order of events, how trials end, and that it repeats itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rbnn.errors import RecipeError
from tune.sweep.simulate import SimulatedTrial, simulate

SWEEP: dict[str, Any] = {
    "base": {"dataset": "digits", "epochs": 4},
    "space": {"lr": {"log": [0.01, 1]}, "weight_decay": {"log": [1e-5, 1e-2]}},
    "trials": 6,
    "sampler": "random",
    "scheduler": "none",
}


def by_lr(values: dict[str, Any], epoch: int, num_epochs: int, seed: int) -> float:
    return 80 - 10 * abs(math.log10(values["lr"] / 0.3)) - (num_epochs - epoch - 1)


def sizes(trials: list[SimulatedTrial]) -> list[tuple[int, int, str, int]]:
    return [(t.num_epochs, t.epochs, t.state, t.ended_after) for t in trials]


def test_trials_take_turns_an_epoch_each_and_a_free_place_is_filled_at_once() -> None:
    trials = simulate({**SWEEP, "trials": 3}, by_lr, concurrent=2)
    assert sizes(trials) == [(4, 4, "complete", 7), (4, 4, "complete", 8), (4, 4, "complete", 12)]
    assert trials[0].values["lr"] == 0.1  # the baseline
    assert trials[0].score == by_lr(trials[0].values, 3, 4, 0)


def test_max_epochs_ends_the_sweep_and_leaves_out_the_trials_that_run() -> None:
    trials = simulate(SWEEP, by_lr, concurrent=2, max_epochs=11)
    assert sizes(trials) == [(4, 4, "complete", 7), (4, 4, "complete", 8)]
    assert simulate(SWEEP, by_lr, concurrent=5, max_epochs=15) == []
    assert len(simulate(SWEEP, by_lr, concurrent=5)) == SWEEP["trials"]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
@pytest.mark.parametrize("scheduler", ["none", {"name": "asha", "grace_period": 1}])
def test_it_repeats_itself_and_follows_its_seed(sampler: str, scheduler: Any) -> None:
    sweep = {**SWEEP, "sampler": sampler, "scheduler": scheduler, "base": {"epochs": 4}}
    sweep["space"] = {"lr": {"log": [0.01, 1]}}
    once = simulate(sweep, by_lr, seed=3)
    assert simulate(sweep, by_lr, seed=3) == once
    assert simulate(sweep, by_lr, seed=4) != once


def test_early_stopping_ends_the_worse_trials_at_a_rung() -> None:
    asha = {"name": "asha", "grace_period": 1, "reduction_factor": 2}
    trials = simulate({**SWEEP, "trials": 12, "scheduler": asha}, by_lr)
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert len(pruned) >= 4 and {trial.epochs for trial in pruned} <= {1, 2}
    kept = [trial for trial in trials if trial.state == "complete" and trial.values["lr"] != 0.1]
    assert max(trial.score for trial in kept) == max(trial.score for trial in trials)


def test_a_score_that_is_not_finite_fails_the_trial() -> None:
    def diverging(values: dict[str, Any], epoch: int, num_epochs: int, seed: int) -> float:
        return math.nan if values["lr"] != 0.1 and epoch == 2 else 50.0

    trials = simulate({**SWEEP, "trials": 2}, diverging, concurrent=1)
    assert sizes(trials) == [(4, 4, "complete", 4), (4, 2, "failed", 7)]
    assert trials[1].score == 50.0


def test_the_objective_hears_the_seed_and_every_epoch_once() -> None:
    heard: list[tuple[int, int, int]] = []

    def listening(values: dict[str, Any], epoch: int, num_epochs: int, seed: int) -> float:
        heard.append((epoch, num_epochs, seed))
        return 50.0

    simulate({**SWEEP, "trials": 1}, listening, seed=7)
    assert heard == [(epoch, 4, 7) for epoch in range(4)]


def test_a_sweep_file_is_taken_by_its_path_or_name(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    space = "space: {lr: {log: [0.01, 1]}}"
    file.write_text(f"base: {{dataset: digits, epochs: 2}}\n{space}\ntrials: 2\nscheduler: none\n")
    trials = simulate(file, by_lr, concurrent=1)
    assert sizes(trials) == [(2, 2, "complete", 2), (2, 2, "complete", 4)]
    with pytest.raises(RecipeError, match="spce"):
        simulate({**SWEEP, "spce": {}}, by_lr)
