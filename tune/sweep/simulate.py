"""A sweep's decisions in virtual time: proposals, reports and stops of the classes that real sweeps
use, against an objective in place of training.

Every epoch costs the same, so that `concurrent` trials report in turn, in the order in which they
started; a place that falls free is filled before the next epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray.tune.schedulers import TrialScheduler

from rbnn.data.loading import DataInfo
from tune.sweep.config import load_sweep, parse_sweep
from tune.sweep.plan import SweepPlan
from tune.sweep.table import METRIC
from tune.sweep.trial import TrialSpec
from tune.sweep.tuner import search_phase

Objective = Callable[[dict[str, Any], int, int, int], float]
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class SimulatedTrial:
    """A trial that ended. values: those searched or fixed; num_epochs: the length of its schedule;
    epochs: those it spent; score: of its last epoch, NaN where it has none; ended_after: epochs
    that the whole sweep had spent then.
    """

    values: dict[str, Any]
    num_epochs: int
    epochs: int
    state: State
    score: float
    ended_after: int


def simulate(
    sweep: str | Path | Mapping[str, Any],
    objective: Objective,
    *,
    concurrent: int = 2,
    seed: int = 0,
    max_epochs: int | None = None,
    storage: str | None = None,
) -> list[SimulatedTrial]:
    """The trials of a sweep (a sweep file, or its content) in the order in which they end.

    objective(values, epoch, num_epochs, seed): val/top1 in percent after the 0-based `epoch` of a
    schedule of num_epochs; a value that is not finite fails the trial. seed: of the proposals, in
    place of the file's, and the objective's. The sweep ends after its number of trials, or where
    its trials together have spent max_epochs: those that run then are left out. storage: URL of an
    Optuna storage for its study; None: in memory. Raises RecipeError as `load_sweep` does.
    """
    if isinstance(sweep, Mapping):
        file = parse_sweep({"name": "simulated", **sweep, "seed": seed}, Path())
    else:
        file = load_sweep(sweep, seed=seed)
    no_data = DataInfo(file.baseline.dataset, "")
    plan = SweepPlan(file, file.name, Path(), file.baseline, no_data, concurrent, cpus=1, gpus=0)
    phase = search_phase(plan, storage, file.trials)
    return play(
        phase.searcher,
        phase.scheduler,
        objective,
        num_epochs=file.baseline.epochs,
        num_trials=file.trials,
        concurrent=concurrent,
        seed=seed,
        max_epochs=max_epochs,
    )


@dataclass
class RunningTrial:
    """What a scheduler of Ray's reads of a trial, and how far it is."""

    trial_id: str
    config: dict[str, Any]
    values: dict[str, Any]
    num_epochs: int
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        return int(self.result.get("epoch", 0))


def play(
    searcher: Any,
    scheduler: Any,
    objective: Objective,
    *,
    num_epochs: int,
    num_trials: int,
    concurrent: int,
    seed: int,
    max_epochs: int | None = None,
) -> list[SimulatedTrial]:
    """`simulate` for any searcher, whose configs are a TrialSpec's, and scheduler of Ray Tune.
    num_epochs: of a trial's schedule, where its values name no `epochs` of their own.
    """
    running: list[RunningTrial] = []
    ended: list[SimulatedTrial] = []
    begun = spent = 0
    while True:
        while len(running) < concurrent and begun < num_trials:
            config = searcher.suggest(str(begun))
            if not isinstance(config, dict):
                break
            values = TrialSpec.of(config).values
            length = int(values.get("epochs", num_epochs))
            running.append(RunningTrial(str(begun), config, values, length))
            scheduler.on_trial_add(None, running[-1])
            begun += 1
        if not running:
            return ended
        for trial in list(running):
            if max_epochs is not None and spent >= max_epochs:
                return ended
            spent += 1
            state = advance(trial, searcher, scheduler, objective, seed)
            if state:
                running.remove(trial)
                score = trial.result.get(METRIC, math.nan)
                length, epochs = trial.num_epochs, trial.epochs
                ended.append(SimulatedTrial(trial.values, length, epochs, state, score, spent))


def advance(
    trial: RunningTrial, searcher: Any, scheduler: Any, objective: Objective, seed: int
) -> State | None:
    """Train a trial for an epoch, as Ray tells searcher and scheduler; how it ended."""
    score = objective(trial.values, trial.epochs, trial.num_epochs, seed)
    if not math.isfinite(score):
        scheduler.on_trial_remove(None, trial)
        searcher.on_trial_complete(trial.trial_id, error=True)
        return "failed"
    epochs = trial.epochs + 1
    trial.result = {"epoch": epochs, "training_iteration": epochs, METRIC: score}
    state: State | None = "complete" if epochs == trial.num_epochs else None
    if not state and scheduler.on_trial_result(None, trial, trial.result) == TrialScheduler.STOP:
        state = "pruned"
    if not state:
        searcher.on_trial_result(trial.trial_id, trial.result)
        return None
    scheduler.on_trial_complete(None, trial, trial.result)
    searcher.on_trial_complete(trial.trial_id, trial.result)
    return state
