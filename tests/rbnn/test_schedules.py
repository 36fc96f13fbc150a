"""Learning rate and surrogate by hand values of the documented formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rbnn.recipe import Recipe
from rbnn.schedules import learning_rate, surrogate_tk

COS = {"epochs": 1000, "lr": 0.1}
STEP = {"lr": 0.1, "lr_type": "step"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (COS, {0: 0.1, 250: 0.05 * (1 + math.sqrt(0.5)), 500: 0.05}),
        (COS, {999: 0.05 * (1 + math.cos(math.pi * 0.999))}),
        # Rises over five epochs, then runs over the rest.
        ({**COS, "warm_up": True}, {0: 0.02, 1: 0.04, 3: 0.08, 4: 0.1, 502: 0.05}),
        ({**COS, "warm_up": True}, {5: 0.05 * (1 + math.cos(math.pi / 996))}),
        ({**COS, "warm_up": True}, {999: 0.05 * (1 + math.cos(math.pi * 995 / 996))}),
        # Steps count from their own epoch.
        (
            {**STEP, "epochs": 120, "lr_decay_step": (30, 60, 90)},
            {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 1e-3, 89: 1e-3, 90: 1e-4, 119: 1e-4},
        ),
        (
            {**STEP, "epochs": 20, "lr_decay_step": (10,), "warm_up": True},
            {0: 0.02, 4: 0.1, 5: 0.1, 9: 0.1, 10: 0.01},
        ),
    ],
)
def test_the_learning_rate_is_as_documented(
    options: dict[str, Any], expected: dict[int, float]
) -> None:
    rates = {epoch: learning_rate(Recipe(**options), epoch) for epoch in expected}
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 6, 120])
def test_the_rate_is_positive_and_never_above_lr_at_any_length(epochs: int, warm_up: bool) -> None:
    recipe = Recipe(epochs=epochs, lr=0.3, warm_up=warm_up)
    rates = [learning_rate(recipe, epoch) for epoch in range(epochs)]
    assert all(0 < rate <= 0.3 for rate in rates)
    peak = min(4, epochs - 1) if warm_up else 0
    assert max(rates) == rates[peak]


@pytest.mark.parametrize(
    ("epoch", "t", "k"),
    [
        (0, 0.01, 100.0),
        (250, 10**-1.25, 10**1.25),
        (500, 10**-0.5, 10**0.5),
        (666, 10**-0.002, 10**0.002),
        (750, 10**0.25, 1.0),
        (999, 10**0.997, 1.0),  # never quite Tmax
    ],
)
def test_t_rises_by_its_logarithm_and_k_is_its_inverse_or_one(
    epoch: int, t: float, k: float
) -> None:
    found = surrogate_tk(Recipe(epochs=1000, Tmin=1e-2, Tmax=10), epoch)
    assert found == pytest.approx((t, k), rel=1e-12)
