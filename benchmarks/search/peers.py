"""What others would write, as `tune.sweep.simulate.play` takes it: Ray Tune's OptunaSearch with its
AsyncHyperBandScheduler, and Optuna's own loop with any of its samplers and pruners.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.search.priorband import PriorBand
from tune.sweep.space import Space
from tune.sweep.table import METRIC
from tune.sweep.trial import TrialSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)  # not a line for each of thousands of studies


class RayPair:
    """OptunaSearch and AsyncHyperBandScheduler with their defaults; max_t is a whole training."""

    def __init__(self, space: Space, num_epochs: int, seed: int) -> None:
        goal = {"metric": METRIC, "mode": "max"}
        self.space = space
        self.search = OptunaSearch(space=space.distributions, seed=seed, **goal)
        self.scheduler = AsyncHyperBandScheduler(max_t=num_epochs, **goal)
        self.on_trial_result = self.search.on_trial_result
        self.on_trial_complete = self.search.on_trial_complete

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next setting, as `play` takes it."""
        return TrialSpec(0, self.space.values(self.search.suggest(trial_id))).to_config()


class OptunaLoop(FIFOScheduler):
    """`study.optimize` with an objective that reports every epoch; searcher and scheduler."""

    def __init__(
        self, space: Space, num_epochs: int, sampler: BaseSampler, pruner: BasePruner, seed: int
    ) -> None:
        super().__init__()
        self.space, self.num_epochs = space, num_epochs
        self.study = optuna.create_study(
            study_name=str(seed), direction="maximize", sampler=sampler, pruner=pruner
        )  # HyperbandPruner draws brackets from the name
        self.trials: dict[str, optuna.Trial] = {}

    @property
    def scheduler(self) -> OptunaLoop:
        return self

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next setting, as `play` takes it."""
        self.trials[trial_id] = trial = self.study.ask(self.space.distributions)
        return TrialSpec(trial.number, self.space.values(trial.params)).to_config()

    def on_trial_result(self, *told: Any) -> str:
        """Of the searcher, (trial id, result): nothing. Of the scheduler, (controller, trial,
        result): whether the pruner stops it.
        """
        if len(told) == 2:
            return ""
        trial, result = self.trials[told[1].trial_id], told[2]
        trial.report(result[METRIC], result["epoch"])
        stops = trial.should_prune()
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def on_trial_complete(self, *told: Any, error: bool = False) -> None:
        """Of the searcher, (trial id, result): tells the study how the trial ended."""
        if len(told) == 3:
            return
        trial = self.trials[told[0]]
        if error:
            self.study.tell(trial, state=TrialState.FAIL)
        elif told[1]["epoch"] < self.num_epochs:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, told[1][METRIC])


PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "no pruner": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "SuccessiveHalving": optuna.pruners.SuccessiveHalvingPruner,
    "Hyperband": optuna.pruners.HyperbandPruner,
}
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "GP": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "QMC": lambda seed: optuna.samplers.QMCSampler(scramble=True, seed=seed),
    "CMA-ES": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "PriorBand": PriorBand,
}
