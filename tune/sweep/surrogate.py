"""A Gaussian process over settings and lengths of schedules, which sampler gp draws from.

u: a setting's place in the unit cube. r: the level of its schedule, 0 the shortest. y: the score
of its last epoch. y(u, r) = m_r + s_r f(u, r) + noise, f of unit variance with the kernel
Matern52(|u - u'| / l) c^|r - r'|: each option has a length l of its own, so that one which hardly
matters is passed over, each level a mean m_r and a scale s_r, and c says how much a schedule tells
of the next longer one. All are found by maximum a posteriori, with log-normal priors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

Array = NDArray[np.float64]
JITTER, WIDE = 1e-6, 100.0  # variances: of the diagonal beside the noise, of a level's mean
MAX_STEPS = 25
NUM_ANYWHERE, NUM_NEAR, NUM_BEST = 1500, 150, 5
NO_REPEAT = 0.005  # how far a proposal differs from all before in one option at least


class Surrogate:
    """The process given scores; higher is better."""

    def __init__(self, places: Array, levels: NDArray[Any], scores: Array, num_levels: int) -> None:
        self.places, self.levels, self.num_levels = places, levels, num_levels
        self.centre = float(np.mean(scores))
        self.scores = scores - self.centre
        self.scale = max(float(np.std(self.scores)), 1e-6)
        self.theta = self._prior()[0]

    def _prior(self) -> tuple[Array, Array]:
        """Means and deviations of theta: log l, log of the noise's deviation, logit c, log s_r."""
        lengths, scales = self.places.shape[1], self.num_levels - 1
        means = [*[math.log(1.2)] * lengths, math.log(0.15), 2.0, *[0.0] * scales]
        deviations = [*[0.9] * lengths, 0.8, 1.0, *[0.5] * scales]
        return np.array(means), np.array(deviations)

    def _split(self, theta: Array) -> tuple[Array, float, float, Array]:
        """l, the noise's variance, c, s_r (of the longest schedule 1)."""
        at = self.places.shape[1]
        scales = np.append(np.exp(theta[at + 2 :]), 1.0)
        noise, c = math.exp(2 * theta[at]), 1 / (1 + math.exp(-theta[at + 1]))
        return np.exp(theta[:at]), noise, c, scales

    def fit(self) -> Array:
        """Theta of the highest posterior."""
        means, _ = self._prior()
        apart = (self.places[:, None, :] - self.places[None, :, :]).transpose(2, 0, 1) ** 2
        bounds = [(mean - 3, mean + 3) for mean in means]
        options = {"maxiter": MAX_STEPS}
        found: Array = minimize(
            self._loss, means, (apart,), "L-BFGS-B", jac=True, bounds=bounds, options=options
        ).x
        return found

    def _loss(self, theta: Array, apart: Array) -> tuple[float, Array]:
        """The negative log posterior, the variance of f profiled out, and its gradient."""
        lengths, noise, c, scales = self._split(theta)
        num, at = len(self.scores), len(lengths)
        between = np.abs(self.levels[:, None] - self.levels[None, :])
        weighed = apart / (lengths**2)[:, None, None]
        distance = np.sqrt(5 * weighed.sum(0) + 1e-12)
        shrunk, shared = np.exp(-distance), c**between * np.outer(*[scales[self.levels]] * 2)
        kernel = (1 + distance + distance**2 / 3) * shrunk * shared
        whole = kernel + (noise + JITTER) * np.eye(num) + WIDE * (between == 0)
        factor = np.linalg.cholesky(whole)
        inverse, y = cho_solve((factor, True), np.eye(num)), self.scores / self.scale
        alpha = inverse @ y
        variance = max(float(y @ alpha) / num, 1e-9)
        loss = num / 2 * math.log(variance) + float(np.log(np.diag(factor)).sum())
        by_entry = (inverse - np.outer(alpha, alpha) / variance) / 2
        slopes = by_entry * shared * (5 / 3) * (1 + distance) * shrunk
        gradient = np.empty_like(theta)
        gradient[:at] = np.einsum("ij,kij->k", slopes, weighed)
        gradient[at] = 2 * noise * np.trace(by_entry)
        gradient[at + 1] = (by_entry * kernel * between).sum() * (1 - c)
        by_row = 2 * (by_entry * kernel).sum(1)
        for level in range(self.num_levels - 1):
            gradient[at + 2 + level] = by_row[self.levels == level].sum()
        means, deviations = self._prior()
        off = (theta - means) / deviations
        return loss + float(off @ off) / 2, gradient + off / deviations

    def condition(self, theta: Array, places: Array, levels: NDArray[Any]) -> None:
        """Take theta, and the running trials at those places as if they would score as expected."""
        self.theta = theta
        self._solve()
        if len(places):
            pairs = zip(places, levels, strict=True)
            expected = [self.predict(place[None], level)[0][0] for place, level in pairs]
            self.places = np.vstack([self.places, places])
            self.levels = np.append(self.levels, levels)
            self.scores = np.append(self.scores, np.array(expected) - self.centre)
            self._solve(self.variance)

    def _solve(self, variance: float | None = None) -> None:
        kernel = self._kernel(self.places, self.levels)
        kernel += (self._split(self.theta)[1] + JITTER) * np.eye(len(kernel))
        self.factor, y = np.linalg.cholesky(kernel), self.scores / self.scale
        self.alpha = cho_solve((self.factor, True), y)
        self.variance = variance or max(float(y @ self.alpha) / len(y), 1e-9)

    def _kernel(self, places: Array, levels: NDArray[Any]) -> Array:
        """Covariance of the known scores with means there, in units of f's variance."""
        lengths, _, c, scales = self._split(self.theta)
        ours, theirs = self.places / lengths, places / lengths
        squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None, :] - 2 * ours @ theirs.T
        distance = np.sqrt(5 * np.maximum(squares, 0) + 1e-12)
        between = np.abs(self.levels[:, None] - levels[None, :])
        shared = c**between * np.outer(scales[self.levels], scales[levels])
        matern: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
        return matern * shared + WIDE * (between == 0)

    def predict(self, places: Array, level: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the expected score at places, for a level."""
        kernel = self._kernel(places, np.full(len(places), level))
        spread = solve_triangular(self.factor, kernel, lower=True)
        own = self._split(self.theta)[3][level] ** 2 + WIDE
        variance = np.maximum(own - (spread**2).sum(0), 1e-10) * self.variance
        return kernel.T @ self.alpha * self.scale + self.centre, np.sqrt(variance) * self.scale

    def improve(self, cube: Cube, rng: np.random.Generator) -> Array:
        """The place of the highest expected improvement of the longest schedule over the best
        expected so far, of random places and of some near the best.
        """
        top, num = self.num_levels - 1, self.places.shape[1]
        known = self.predict(self.places, top)[0]
        best, tried = np.argsort(-known)[:NUM_BEST], [rng.random((NUM_ANYWHERE, num))]
        for size in (0.15, 0.05):
            steps = rng.normal(0, size, (NUM_NEAR, num)) * (rng.random((NUM_NEAR, num)) < 0.5)
            near = np.clip(self.places[rng.choice(best, NUM_NEAR)] + steps, 0, 1)
            anew = cube.of_choices & (rng.random(near.shape) < 0.3)  # small steps change no choice
            tried.append(np.where(anew, rng.random(near.shape), near))
        places = cube.snapped(np.vstack(tried))
        mean, deviation = self.predict(places, top)
        z = (mean - known.max()) / deviation
        gain = deviation * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
        new = np.abs(places[:, None] - self.places[None]).max(2).min(1) > NO_REPEAT
        found: Array = places[int(np.argmax(np.where(new, gain, -np.inf) if new.any() else gain))]
        return found


class Cube:
    """Raw values as places in the unit cube: a range is a column, on its own scale, as are two
    choices; more choices are a column each.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.known = dict(distributions)
        kinds = [[isinstance(d, CategoricalDistribution)] * _width(d) for d in self.known.values()]
        self.of_choices = np.array([each for kind in kinds for each in kind])

    def places(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """The places of raw values by option name."""
        rows = []
        for point in points:
            shares = [_shares(each, point[name]) for name, each in self.known.items()]
            rows.append([*itertools.chain(*shares)])
        return np.array(rows)

    @property
    def middle(self) -> dict[str, Any]:
        """The middle of each range."""
        ranges = {n: d for n, d in self.known.items() if not isinstance(d, CategoricalDistribution)}
        return {name: _value(each, np.array([0.5])) for name, each in ranges.items()}

    def snapped(self, places: Array) -> Array:
        """The nearest places that stand for a choice where choices are."""
        at = 0
        for each in self.known.values():
            if isinstance(each, CategoricalDistribution):
                own = places[:, at : at + _width(each)]
                own[:] = own >= 0.5 if _width(each) == 1 else own == own.max(1, keepdims=True)
            at += _width(each)
        return places

    def params(self, place: Array) -> dict[str, Any]:
        """The raw values at a place."""
        found, at = {}, 0
        for name, each in self.known.items():
            found[name] = _value(each, place[at : at + _width(each)])
            at += _width(each)
        return found


def _width(kind: Any) -> int:
    choices = kind.choices if isinstance(kind, CategoricalDistribution) else ()
    return len(choices) if len(choices) > 2 else 1


def _shares(kind: Any, value: Any) -> list[float]:
    if isinstance(kind, CategoricalDistribution):
        at = kind.choices.index(value)
        return [float(at)] if _width(kind) == 1 else [float(i == at) for i in range(_width(kind))]
    if kind.single():
        return [0.5]
    low, high, value = (math.log(v) if kind.log else v for v in (kind.low, kind.high, value))
    return [(value - low) / (high - low)]


def _value(kind: Any, shares: Array) -> Any:
    if isinstance(kind, CategoricalDistribution):
        at = int(np.argmax(shares)) if len(shares) > 1 else int(shares[0] >= 0.5)
        return kind.choices[min(at, len(kind.choices) - 1)]
    low, high = kind.low, kind.high
    share = float(shares[0])
    value = low * (high / low) ** share if kind.log else low + (high - low) * share
    value = round(value) if isinstance(low, int) else value
    return min(max(value, low), high)
