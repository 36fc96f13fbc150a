"""What a sweep tries next: the given points first, then what the sampler draws, and of scheduler
`short` the best again at longer schedules.

A proposal is a function of (seed, the trials so far), not of the process: a sweep that was killed
and resumed proposes what it would have proposed, and `tune.sweep.audit` derives each again.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from tune.sweep.space import Space
from tune.sweep.study import LEARNED, ORIGIN, PROPOSED, VALUES, Study, last_epoch, schedule
from tune.sweep.surrogate import Array, Cube, Surrogate
from tune.sweep.table import BASELINE

MAX_STARTUP_TRIALS = 10
LEAST_FOR_GP = 4  # ended trials below which gp draws at random
# A sweep of more trials than this gives its baseline, a whole training, after some others, so that
# what it has found after few epochs is as good as can be.
LARGE, WHOLE_BEFORE_BASELINE = 40, 3
# Of scheduler short: the ended trials below which none goes on, from the shortest schedule and from
# any other, and the share of a sweep's trials, its last, that are whole trainings of the best.
LEAST_COMPARED, LAST_WHOLE = (8, 4), 10
# With gp so many settings for each that would go on, at most half of a sweep's, are drawn at random
# and trained short, then all are whole: short ones may rank settings wrongly.
SHORT_FIRST = 2
EVERY = 4  # draw of gp follows the prior's theta in place of the fitted one
# Of gp's whole trainings, one in so many is drawn at random: after the short ones or, without them,
# after so many trials. It may have settled on a hill that is not the highest.
RANDOM_EVERY, RANDOM_AFTER = 2, 11
# Numbers of scores that theta is fitted to, as fitting takes longest.
FITTED_AT = [4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 113, 150, 200]
Proposed = tuple[dict[str, Any], dict[str, Any]]  # raw values, recipe values


class Proposals:
    """Points of `space`: `first` (recipe values, the baseline first), then a whole grid in random
    order, or samples for ever.

    sampler: gp, tpe, random or grid. At most half of `num_trials`, and at most 10 trials, are drawn
    at random before tpe begins to learn, LEAST_FOR_GP at most before gp does. lengths: epochs after
    which trials are compared, the last a whole training; where `short`, those of complete schedules
    of their own: settings are drawn for the first, and one in `factor` goes on to the next; gp
    draws `num_short` for the first, and learns from them what to train whole.
    """

    def __init__(
        self,
        space: Space,
        *,
        sampler: str = "tpe",
        seed: int = 1234,
        num_trials: int = 2 * MAX_STARTUP_TRIALS,
        first: Sequence[Mapping[str, Any]] = (),
        lengths: Sequence[int] = (1,),
        short: bool = False,
        factor: float = 3,
    ) -> None:
        self.space, self.sampler, self.seed, self.num_trials = space, sampler, seed, num_trials
        self.lengths, self.short, self.factor = list(lengths), short, factor
        self.cube = Cube(space.distributions)
        self._theta: dict[tuple[int, ...], Array] = {}
        most = LEAST_FOR_GP if sampler == "gp" else MAX_STARTUP_TRIALS
        self.num_startup = max(1, min(most, num_trials // 2))
        self.num_short = 0
        if short and sampler == "gp" and len(lengths) > 1:
            self.lengths = [lengths[0], lengths[-1]]
            self.num_short = min(math.ceil(SHORT_FIRST * factor), (num_trials - 1) // 2)
        self.points = [space.raw(values) for values in first]
        if sampler == "grid":
            self.points += random.Random(seed).sample(space.grid(), len(space.grid()))

    def enqueue(self, history: Study) -> None:
        """Line up the given points in the study, but for those that it holds already."""
        known = [trial.system_attrs.get("fixed_params", trial.params) for trial in history.trials()]
        for point in self.points:
            if point not in known:
                history.study.enqueue_trial(point)
                known.append(point)

    def next(self, history: Study) -> FrozenTrial | None:
        """A new running trial with its recipe values; None once a grid is used up."""
        trials = history.trials()
        queued = [trial for trial in trials if trial.state == TrialState.WAITING]
        if queued and queued[0].number == BASELINE and self._baseline_waits(trials):
            del queued[0]
        if queued:
            level = self._level_of_new(trials)
            if queued[0].number == BASELINE:
                level = len(self.lengths) - 1
            params = self.random_point(queued[0].number)
            params |= queued[0].system_attrs.get("fixed_params", {})
            params = {name: params[name] for name in self.space.entries}
            values = self._at_level(self.space.values(params), level)
            return history.begin(queued[0], params, self.space.distributions, {VALUES: values})
        if self.sampler == "grid":
            return None
        standing, (params, values) = history.standing(trials), self.derive(trials)
        known = {VALUES: values, PROPOSED: standing}
        return history.add(TrialState.RUNNING, params, self.space.distributions, known)

    def derive(self, trials: Sequence[FrozenTrial]) -> Proposed:
        """What is proposed after these trials."""
        level, best = self._level_of_new(trials), None
        if self.short and self.sampler != "gp":
            level, best = self._longer(_drawn(trials), level)
        if best:
            return best.params, self._at_level(best.user_attrs[VALUES], level)
        raw = self._by_process(trials) if self.sampler == "gp" else self._draw(trials)
        values = self.space.values(raw, rounded=True)
        return self.space.raw(values), self._at_level(values, level)

    def _level_of_new(self, trials: Sequence[FrozenTrial]) -> int:
        """The level that a new setting begins at."""
        if self.sampler == "gp":
            is_short = _num_tried(trials) < self.num_short
        else:
            is_short = self.short and not self._last(_drawn(trials))
        return 0 if is_short else len(self.lengths) - 1

    def _by_process(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Raw values of the highest expected improvement; in between, and at first, random ones."""
        scored, tried = _scored(trials), _num_tried(trials)
        if tried < self.num_short or len(scored) < self.num_startup:
            return self._startup_point(trials)
        since = tried - (self.num_short or RANDOM_AFTER)
        if since > 0 and since % RANDOM_EVERY == 1 and not self._last(_drawn(trials)):
            return self.random_point(len(trials))
        return self.cube.params(self._improved(trials, scored))

    def _baseline_waits(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the baseline comes after whole trainings that have not begun."""
        begun = [trial for trial in trials if VALUES in trial.user_attrs]
        whole = [trial for trial in begun if self._length(trial) >= self.lengths[-1]]
        return self.short and self.num_trials > LARGE and len(whole) < WHOLE_BEFORE_BASELINE

    def _at_level(self, values: Mapping[str, Any], level: int) -> dict[str, Any]:
        """The values with the length of a short schedule; a whole training's is the recipe's."""
        plain = {name: value for name, value in values.items() if name != "epochs"}
        is_short = self.short and level < len(self.lengths) - 1
        return plain | ({"epochs": self.lengths[level]} if is_short else {})

    def _longer(
        self, own: Sequence[FrozenTrial], level_of_new: int
    ) -> tuple[int, FrozenTrial | None]:
        """The trial that goes on next, and to which level; none: a new one at its level."""
        if level_of_new:
            return level_of_new, self._most_promising(own)
        for level in reversed(range(1, len(self.lengths))):
            if best := self._going_on(own, level - 1):
                return level, best
        return 0, None

    def _going_on(self, own: Sequence[FrozenTrial], level: int) -> FrozenTrial | None:
        """The best trial of a level, to go on to the next, if one is due: one in `factor`."""
        length, longer = self.lengths[level], self.lengths[level + 1]
        ended = [t for t in own if self._length(t) == length and t.state == TrialState.PRUNED]
        gone_on = [t for t in own if self._length(t) == longer and t.number]
        least = min(LEAST_COMPARED[min(level, 1)], max(2, self.num_trials // 3))
        if len(ended) < least or len(gone_on) >= len(ended) // self.factor:
            return None
        beyond = [trial.params for trial in own if self._length(trial) > length]
        left = [trial for trial in ended if trial.params not in beyond]
        return max(left, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def _last(self, own: Sequence[FrozenTrial]) -> bool:
        """Whether the next is one of the last trials, which are whole trainings."""
        return 0 < self.num_trials - len(own) <= max(1, self.num_trials // LAST_WHOLE)

    def _most_promising(self, own: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The best of the longest of the short schedules whose settings were not trained whole."""
        whole = [trial.params for trial in own if self._length(trial) == self.lengths[-1]]
        left = [t for t in own if t.state == TrialState.PRUNED and t.params not in whole]
        return max(left, key=lambda t: (self._length(t), t.value or 0.0, -t.number), default=None)

    def _length(self, trial: FrozenTrial) -> int:
        return schedule(trial, self.lengths[-1])

    def random_point(self, number: int) -> dict[str, Any]:
        """The raw values that a random draw gives the trial of that number."""
        study = optuna.create_study(sampler=RandomSampler(seed=seed_of(self.seed, number)))
        return study.ask(fixed_distributions=self.space.distributions).params

    def _draw(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """The raw values that the sampler draws after these trials."""
        scored = _scored(trials)
        if self.sampler == "random" or len(scored) < self.num_startup:
            return self._startup_point(trials)
        seed, startup = seed_of(self.seed, len(trials)), self.num_startup
        sampler = TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup
        )
        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.add_trials([*scored, *(t for t in trials if t.state == TrialState.RUNNING)])
        return study.ask(fixed_distributions=self.space.distributions).params

    def _startup_point(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """The middle of the ranges, unless it was tried, then raw values drawn at random."""
        at_random = self.random_point(len(trials))
        if self.sampler == "random" or any(PROPOSED in each.user_attrs for each in trials):
            return at_random
        middle = at_random | self.cube.middle
        given = [self.space.values(point, rounded=True) for point in self.points]
        return at_random if self.space.values(middle, rounded=True) in given else middle

    def _improved(self, trials: Sequence[FrozenTrial], scored: Sequence[FrozenTrial]) -> Array:
        """The place of the highest expected improvement; theta is fitted at some numbers of scores
        only.
        """
        running = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.params]
        places = self.cube.places([trial.params for trial in [*scored, *running]])
        levels = np.array([self._level(trial) for trial in [*scored, *running]])
        scores, num = np.array([trial.value for trial in scored], dtype=float), len(scored)
        fitted = max((size for size in FITTED_AT if size <= num), default=num)
        key = tuple(trial.number for trial in scored[:fitted])
        if key not in self._theta:
            known = places[:fitted], levels[:fitted], scores[:fitted]
            self._theta = {key: Surrogate(*known, len(self.lengths)).fit()}
        surrogate = Surrogate(places[:num], levels[:num], scores, len(self.lengths))
        theta = self._theta[key]
        if len(trials) % EVERY == 0:  # in case that few scores have hidden that an option matters
            theta = surrogate.theta
        surrogate.condition(theta, places[num:], levels[num:])
        rng = np.random.default_rng([self.seed, len(trials)])
        return surrogate.improve(self.cube, rng)

    def _level(self, trial: FrozenTrial) -> int:
        """The level of the epochs that a trial was trained, of a running one will be."""
        epochs = self._length(trial)
        if not self.short and trial.state != TrialState.RUNNING:
            epochs = last_epoch(trial)
        return max(bisect.bisect_right(self.lengths, epochs) - 1, 0)


def _scored(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that ended with a score."""
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return [trial for trial in ended if trial.value is not None]


def _drawn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that have begun, but for those that go on with another. One that waits, in what
    `as_of` gives of a later study, had not begun: interrupted ones are taken up before a proposal.
    """
    begun = [t for t in trials if VALUES in t.user_attrs and t.state != TrialState.WAITING]
    return [trial for trial in begun if ORIGIN not in trial.user_attrs]


def _num_tried(trials: Sequence[FrozenTrial]) -> int:
    """How many settings beside the baseline have begun, here or in a sweep that is learned from."""
    learned = [t for t in trials if LEARNED in t.user_attrs and VALUES not in t.user_attrs]
    finished = [trial for trial in learned if trial.state.is_finished()]
    return len(finished) + sum(trial.number != BASELINE for trial in _drawn(trials))


def seed_of(seed: int, number: int) -> int:
    """An independent seed for each trial number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
