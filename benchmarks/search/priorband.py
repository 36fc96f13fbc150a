"""The sampling rule of PriorBand (Mallik et al. 2023, arXiv 2306.12370, section 5) as a sampler of
Optuna's, beside its HyperbandPruner.

A setting of a bracket whose first rung is the r-th comes from anywhere with p_U = 1 / (1 + f^r),
else from near the documented setting or near the incumbent, in the ratio S_prior : S_incumbent. S:
over the best 1/f of the trials of the highest rung that has f of them, ranked i of n, the sum of
(n + 1 - i) p(u_i), where p is the density that the one or the other would draw u_i with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import truncnorm

from benchmarks.search.objectives import place, setting
from benchmarks.search.table import DOCUMENTED, SPACE, rounded

FACTOR = 3
WIDTH = 0.25  # standard deviation of each option's share of its range
MOVED = 0.5  # probability that an option differs from the incumbent's


class PriorBand(RandomSampler):
    """Draws settings of SPACE; DOCUMENTED is the prior's mode, half of its mass on its choices."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.rng = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None: the space is fixed."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Draw the trial's setting, which `sample_independent` then hands out."""
        self.drawn = setting(self._draw(study, self._rung(study, trial)).tolist())

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The option's value in the setting drawn for the trial."""
        return rounded(self.drawn[param_name])

    def _rung(self, study: Study, trial: FrozenTrial) -> int:
        pruner = study.pruner
        assert isinstance(pruner, HyperbandPruner)
        known = bool(pruner._pruners)  # made at the first report
        return pruner._get_bracket_id(study, trial) if known else 0

    def _draw(self, study: Study, rung: int) -> NDArray[Any]:
        anywhere = self.rng.random(len(SPACE))
        if self.rng.random() < 1 / (1 + FACTOR**rung):
            return anywhere
        documented = np.array(place(DOCUMENTED))
        near = self._near(documented)
        ranked = ranked_at_top(study)
        if not ranked:
            return near
        incumbent = ranked[0]
        best = ranked[: max(1, len(ranked) // FACTOR)]
        weights = np.arange(len(best), 0, -1)
        by_prior, by_incumbent = (
            float(weights @ [density(u, centre) for u in best])
            for centre in (documented, incumbent)
        )
        if self.rng.random() < by_prior / (by_prior + by_incumbent):
            return near
        moved = self.rng.random(len(SPACE)) < MOVED
        return np.where(moved, self._near(incumbent), incumbent)

    def _near(self, centre: NDArray[Any]) -> NDArray[Any]:
        low, high = -centre / WIDTH, (1 - centre) / WIDTH
        drawn = truncnorm.rvs(low, high, centre, WIDTH, random_state=self.rng)
        is_choice = np.array([not isinstance(entry, dict) for entry in SPACE.values()])
        kept = np.where(self.rng.random(len(centre)) < 0.5, centre, self.rng.random(len(centre)))
        return np.asarray(np.where(is_choice, kept, drawn))


def density(u: NDArray[Any], centre: NDArray[Any]) -> float:
    """Of u where it is drawn from near the centre."""
    found = 1.0
    for entry, at, middle in zip(SPACE.values(), u, centre, strict=True):
        if isinstance(entry, dict):
            low, high = -middle / WIDTH, (1 - middle) / WIDTH
            found *= float(truncnorm.pdf(at, low, high, middle, WIDTH))
        else:
            found *= 0.75 if at == middle else 0.25
    return found


def ranked_at_top(study: Study) -> list[NDArray[Any]]:
    """The places, best first, at the highest rung that FACTOR trials have reached."""
    ended = study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED))
    curves = [(curve(trial), place(trial.params)) for trial in ended]
    lengths = sorted((len(scores) for scores, _ in curves), reverse=True)
    if len(lengths) < FACTOR:
        return []
    top = lengths[FACTOR - 1]
    reached = [(scores[top - 1], where) for scores, where in curves if len(scores) >= top > 0]
    return [np.array(where) for _, where in sorted(reached, reverse=True)]


def curve(trial: FrozenTrial) -> list[float]:
    """Its scores by epoch; the last of a complete trial is its value."""
    scores = list(trial.intermediate_values.values())
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        scores.append(trial.value)
    return scores
