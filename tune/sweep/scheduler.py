"""Asynchronous successive halving (ASHA, Li et al. 2020, arXiv 1810.05934) that remembers by the
study, not in memory.

Ray's AsyncHyperBand forgets all rungs when its process ends, so a resumed sweep would let poor
trials pass. Here each decision is a function of the scores in the Optuna study, and equal to Ray's
on the same reports (tests/tune/sweep/test_scheduler.py). r0: grace period, f: reduction factor, s:
bracket. Rungs are at r0 f^s, r0 f^(s+1), ... epochs below a full trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.run.failure import failure_cause
from tune.sweep.config import rungs
from tune.sweep.stop import breaking
from tune.sweep.study import CAUSE, JUDGED, ORIGIN, Study, last_epoch, scores_at
from tune.sweep.table import BASELINE, METRIC


def goes_on(score: float, others: Sequence[float], reduction_factor: float) -> bool:
    """Whether a score is not below the (1 - 1/f) quantile of the other scores at a rung so far."""
    return not others or not score < np.nanpercentile(others, (1 - 1 / reduction_factor) * 100)


def bracket_of(number: int, seed: int, sizes: Sequence[int]) -> int:
    """The bracket of a trial, from (seed, number) alone: p ~ exp(its number of rungs)."""
    if len(sizes) == 1:
        return 0
    weights = np.exp(np.array(sizes, dtype=float) - max(sizes))
    return int(np.random.default_rng([seed, number]).choice(len(sizes), p=weights / weights.sum()))


class SuccessiveHalving(FIFOScheduler):
    """Stops a trial at a rung where its score is not among the best; `epoch` (from 1) is the time.

    grace_period: None stops nobody. A trial that reaches its last epoch is never stopped, nor is
    the baseline, with whose full-length score every other is compared. An epoch reported again,
    after a resume, is judged again only when the study holds no later one, so that a decision lost
    in a kill is made again.
    """

    def __init__(
        self,
        history: Study,
        num_epochs: int,
        grace_period: int | None,
        *,
        reduction_factor: float = 3,
        brackets: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.history, self.seed, self.factor = history, seed, reduction_factor
        self.num_epochs = num_epochs
        self.rungs: list[list[int]] = [[]]
        if grace_period:
            self.rungs = []
            for bracket in range(brackets):
                self.rungs.append(rungs(grace_period, reduction_factor, num_epochs, bracket))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Nothing is taken from Ray's TuneConfig."""
        return True

    @breaking
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE for one report; how the study stood goes with what a rung decided."""
        number, epoch = trial.config["number"], result["epoch"]
        if METRIC not in result or epoch not in self.rungs_of(number):
            return str(TrialScheduler.CONTINUE)
        trials, stops = self.history.trials(), False
        if last_epoch(trials[number]) <= epoch:
            stops = self.stops(trials, number, epoch, result[METRIC])
            judged = trials[number].user_attrs.get(JUDGED, {})
            judged = {**judged, str(epoch): self.history.standing(trials)}
            self.history.tag(number, JUDGED, judged)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def stops(self, trials: Sequence[FrozenTrial], number: int, epoch: int, score: float) -> bool:
        """Whether a trial with that score ends after that epoch, of which the others decide."""
        attributes = trials[number].user_attrs
        if number == BASELINE or ORIGIN in attributes or epoch not in self.rungs_of(number):
            return False
        return not goes_on(score, self._rivals(trials, epoch, number), self.factor)

    @breaking
    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Notes why a trial broke: Ray tells the searcher next, without the cause."""
        self.history.tag(trial.config["number"], CAUSE, failure_cause(trial))

    def rungs_of(self, number: int) -> list[int]:
        """The epochs at which that trial is judged."""
        return self.rungs[bracket_of(number, self.seed, [len(bracket) for bracket in self.rungs])]

    def _rivals(self, trials: Sequence[Any], epoch: int, number: int) -> list[float]:
        """Scores at the rung of the trials of the same bracket."""
        if len(self.rungs) > 1:
            own = self.rungs_of(number)
            trials = [trial for trial in trials if self.rungs_of(trial.number) == own]
        return scores_at(trials, epoch, but=number)
