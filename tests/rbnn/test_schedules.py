"""Learning rate and surrogate by hand values of the documented formulas."""

from __future__ import annotations

import math

import pytest

from rbnn.recipe import Recipe
from rbnn.schedules import learning_rate, surrogate_tk


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.1),
        (250, 0.05 * (1 + math.sqrt(0.5))),
        (500, 0.05),
        (999, 0.05 * (1 + math.cos(math.pi * 0.999))),
    ],
)
def test_cosine_without_warm_up(epoch: int, expected: float) -> None:
    assert learning_rate(Recipe(epochs=1000, lr=0.1), epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.02),
        (1, 0.04),
        (3, 0.08),
        (4, 0.1),
        (5, 0.05 * (1 + math.cos(math.pi / 996))),
        (502, 0.05),
        (999, 0.05 * (1 + math.cos(math.pi * 995 / 996))),
    ],
)
def test_cosine_with_warm_up_rises_over_five_epochs_then_runs_over_the_rest(
    epoch: int, expected: float
) -> None:
    assert learning_rate(Recipe(epochs=1000, lr=0.1, warm_up=True), epoch) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 6, 120])
def test_the_rate_is_positive_and_never_above_lr_whatever_the_length(
    epochs: int, warm_up: bool
) -> None:
    recipe = Recipe(epochs=epochs, lr=0.3, warm_up=warm_up)
    rates = [learning_rate(recipe, epoch) for epoch in range(epochs)]
    assert all(0 < rate <= 0.3 for rate in rates)
    peak = min(4, epochs - 1) if warm_up else 0
    assert max(rates) == rates[peak]


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1), (29, 1), (30, 0.1), (59, 0.1), (60, 0.01), (90, 0.001), (119, 0.001)],
)
def test_steps_count_from_their_own_epoch(epoch: int, factor: float) -> None:
    recipe = Recipe(epochs=120, lr=0.1, lr_type="step", lr_decay_step=(30, 60, 90))
    assert learning_rate(recipe, epoch) == pytest.approx(0.1 * factor, rel=1e-12)


def test_steps_with_warm_up() -> None:
    recipe = Recipe(epochs=20, lr=0.1, lr_type="step", lr_decay_step=(10,), warm_up=True)
    assert [learning_rate(recipe, epoch) for epoch in (0, 4, 5, 9, 10)] == pytest.approx(
        [0.02, 0.1, 0.1, 0.1, 0.01]
    )


@pytest.mark.parametrize(
    ("epoch", "t", "k"),
    [
        (0, 0.01, 100.0),
        (250, 10**-1.25, 10**1.25),
        (500, 10**-0.5, 10**0.5),
        (666, 10**-0.002, 10**0.002),
        (750, 10**0.25, 1.0),
    ],
)
def test_t_rises_by_its_logarithm_and_k_is_its_inverse_but_at_least_one(
    epoch: int, t: float, k: float
) -> None:
    assert surrogate_tk(Recipe(epochs=1000, Tmin=1e-2, Tmax=10), epoch) == pytest.approx(
        (t, k), rel=1e-12
    )


def test_t_never_quite_reaches_tmax() -> None:
    recipe = Recipe(epochs=7, Tmin=0.3, Tmax=3)
    values = [surrogate_tk(recipe, epoch)[0] for epoch in range(7)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.3) and values[-1] == pytest.approx(0.3 * 10 ** (6 / 7))
