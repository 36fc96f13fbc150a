"""Asynchronous successive halving (ASHA, Li et al. 2020, arXiv 1810.05934) that remembers by the
study, not in memory.

Ray's AsyncHyperBand forgets all rungs when its process ends, so a resumed sweep would let poor
trials pass. Here each decision is a function of the scores in the Optuna study, and equal to Ray's
on the same reports (tests/tune/sweep/test_scheduler.py). r0: grace period, f: reduction factor, s:
bracket. Rungs are at r0 f^s, r0 f^(s+1), ... epochs below a full trial.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.run.failure import failure_cause
from tune.sweep.stop import breaking
from tune.sweep.study import CAUSE, Study, last_epoch, scores_at
from tune.sweep.table import BASELINE


def rungs(
    grace_period: int, reduction_factor: float, num_epochs: int, bracket: int = 0
) -> list[int]:
    """The epochs after which a trial of that bracket is judged, e.g. [60, 180] for r0 60, f 3, 400
    epochs.
    """
    milestones = (
        math.ceil(grace_period * reduction_factor ** (k + bracket) - 1e-9)
        for k in itertools.count()
    )
    return list(itertools.takewhile(lambda epoch: epoch < num_epochs, milestones))


def goes_on(score: float, others: Sequence[float], reduction_factor: float) -> bool:
    """Whether a score is among the best 1/f of a rung: not below the (1 - 1/f) quantile of the
    other scores there so far.
    """
    return not (
        len(others) > 0 and score < np.nanpercentile(others, (1 - 1 / reduction_factor) * 100)
    )


def bracket_of(number: int, seed: int, sizes: Sequence[int]) -> int:
    """The bracket of a trial: drawn with probability proportional to exp(its number of rungs), from
    (seed, number) alone.
    """
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
        *,
        metric: str,
        num_epochs: int,
        grace_period: int | None,
        reduction_factor: float = 3,
        brackets: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.history, self._metric, self.seed, self.factor = history, metric, seed, reduction_factor
        self.rungs: list[list[int]] = [[]]
        if grace_period:
            self.rungs = [
                rungs(grace_period, reduction_factor, num_epochs, index)
                for index in range(brackets)
            ]

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Nothing is taken from Ray's TuneConfig."""
        return True

    @breaking
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE for one report."""
        number = trial.config["number"]
        if (
            number == BASELINE
            or self._metric not in result
            or result["epoch"] not in self.rungs_of(number)
        ):
            return str(TrialScheduler.CONTINUE)
        epoch, trials = result["epoch"], self.history.trials()
        if last_epoch(trials[number]) > epoch:
            return str(TrialScheduler.CONTINUE)
        sign = 1.0 if self.history.mode == "max" else -1.0
        others = [sign * score for score in self._rivals(trials, epoch, number)]
        stays = goes_on(sign * result[self._metric], others, self.factor)
        return str(TrialScheduler.CONTINUE if stays else TrialScheduler.STOP)

    @breaking
    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Notes why a trial broke while the study still takes notes: Ray tells the searcher next,
        without the cause.
        """
        self.history.tag(trial.config["number"], CAUSE, failure_cause(trial))

    def rungs_of(self, number: int) -> list[int]:
        """The epochs at which that trial is judged."""
        return self.rungs[bracket_of(number, self.seed, [len(bracket) for bracket in self.rungs])]

    def _rivals(self, trials: Sequence[Any], epoch: int, number: int) -> list[float]:
        """Scores at the rung of the trials of the same bracket."""
        if len(self.rungs) == 1:
            return scores_at(trials, epoch, but=number)
        own = self.rungs_of(number)
        return scores_at(
            [trial for trial in trials if self.rungs_of(trial.number) == own], epoch, but=number
        )
