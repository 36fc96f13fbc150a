"""What a sweep tries next: the given points first, then what the sampler draws.

Draws are a function of (seed, trial number, the study so far), not of the process: a sweep that was
killed and resumed proposes what it would have proposed. For that a fresh sampler, seeded by both,
answers each question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from tune.sweep.space import Space
from tune.sweep.study import VALUES, Study

MAX_STARTUP_TRIALS = 10
LEAST_FOR_GP = 3  # trials that ran to their end, below which a Gaussian process has nothing to fit


class Proposals:
    """Points of `space`: `first` (recipe values, the baseline first), then a whole grid in random
    order, or samples for ever.

    sampler: tpe, gp, random or grid. At most half of `num_trials`, and at most 10 trials, are drawn
    at random before tpe and gp begin to learn. gp learns from trials that ran to their end alone,
    and begins when LEAST_FOR_GP of those that ended did.
    """

    def __init__(
        self,
        space: Space,
        *,
        sampler: str = "tpe",
        seed: int = 1234,
        num_trials: int = 2 * MAX_STARTUP_TRIALS,
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.space, self.sampler, self.seed = space, sampler, seed
        self.num_startup = max(1, min(MAX_STARTUP_TRIALS, num_trials // 2))
        self.least_for_gp = min(LEAST_FOR_GP, self.num_startup)
        self.points = [space.raw(values) for values in first]
        if sampler == "grid":
            self.points += random.Random(seed).sample(space.grid(), len(space.grid()))

    def enqueue(self, history: Study) -> None:
        """Line up the given points in the study; those that it holds already are not
        added again.
        """
        known = [trial.system_attrs.get("fixed_params", trial.params) for trial in history.trials()]
        for point in self.points:
            if point not in known:
                history.study.enqueue_trial(point)
                known.append(point)

    def next(self, history: Study) -> FrozenTrial | None:
        """A new running trial with its recipe values as attribute VALUES; None once a grid is used
        up.
        """
        study, queued = history.study, history.trials(TrialState.WAITING)
        if not queued and self.sampler == "grid":
            return None
        number = queued[0].number if queued else len(history.trials())
        if not queued and self._is_drawn_at_random(history):
            # In one transaction: a kill between two options of a random draw would otherwise change
            # the second.
            study.enqueue_trial(self.random_point(number))
        study.sampler = self.new_sampler(number)
        trial = study.ask(fixed_distributions=self.space.distributions)
        trial.set_user_attr(VALUES, self.space.values(trial.params))
        return history.trials()[trial.number]

    def random_point(self, number: int) -> dict[str, Any]:
        """The raw values that a random draw gives the trial of that number."""
        study = optuna.create_study(sampler=RandomSampler(seed=seed_of(self.seed, number)))
        return study.ask(fixed_distributions=self.space.distributions).params

    def new_sampler(self, number: int) -> BaseSampler:
        """The sampler that answers for the trial of that number."""
        seed = seed_of(self.seed, number)
        if self.sampler == "tpe":
            return TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=self.num_startup
            )
        if self.sampler == "gp":
            return GPSampler(
                seed=seed, n_startup_trials=self.least_for_gp, warn_independent_sampling=False
            )
        return RandomSampler(seed=seed)

    def _is_drawn_at_random(self, history: Study) -> bool:
        if (
            self.sampler == "random"
            or len(history.trials(TrialState.COMPLETE, TrialState.PRUNED)) < self.num_startup
        ):
            return True
        return self.sampler == "gp" and len(history.trials(TrialState.COMPLETE)) < self.least_for_gp


def seed_of(seed: int, number: int) -> int:
    """An independent seed for each trial number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
