"""tune.sweep.space and tune.sweep.param: what a search space accepts, and that raw values and
recipe values lead to one another.
"""

from __future__ import annotations

import math
import random

import pytest

from rbnn.errors import RecipeError
from rbnn.recipe import Recipe
from tune.sweep.space import Space

BASELINE = Recipe(lr=0.1, Tmin=0.01, Tmax=10.0, rotation_update=1, lr_decay_step=(10,))
NARROW = BASELINE.replace(lr=0.1235, Tmin=1.00001)
DOCUMENTED = {
    "lr": {"log": [0.01, 1]},
    "Tmin": {"log": [0.001, 5]},
    "Tmax": {"log": [0.5, 30]},
    "rotation_update": {"integer": [1, 5]},
    "warm_up": "boolean",
}
SPACES = {
    "documented": DOCUMENTED,
    "linear": {"Tmin": {"linear": [0.005, 5]}, "Tmax": {"linear": [0.5, 30], "above": "Tmin"}},
    "chain": {
        "momentum": {"linear": [0, 0.95], "above": "lr"},
        "lr": {"log": [0.01, 0.3]},
        "Tmin": {"log": [0.01, 1]},
    },
    "integer": {
        "rotation_update": {"integer": [1, 9]},
        "batch_size": {"integer": [2, 512], "log": True, "above": "rotation_update"},
    },
    "choice": {
        "lr_type": {"choice": ["cos", "step"]},
        "lr_decay_step": {"choice": ["10", "30 60"]},
        "Tmax": {"log": [0.001, 20]},
    },
}


def sample(space: Space, rng: random.Random) -> dict[str, object]:
    """Raw values from the ranges themselves, ends included now and then."""
    raw = {}
    for name, entry in space.entries.items():
        if not entry.is_range:
            raw[name] = rng.choice(entry.choices)[0]
        elif entry.kind == "integer":
            raw[name] = rng.randint(int(entry.low), int(entry.high))
        else:
            low, high = (
                (math.log(entry.low), math.log(entry.high))
                if entry.log
                else (entry.low, entry.high)
            )
            at = low + (high - low) * rng.choice(
                [0.0, 1.0, rng.random(), rng.random(), rng.random()]
            )
            raw[name] = min(max(math.exp(at) if entry.log else at, entry.low), entry.high)
    return raw


@pytest.mark.parametrize("name", SPACES)
def test_raw_and_values_lead_to_one_another(name: str) -> None:
    space, rng = Space(SPACES[name], BASELINE), random.Random(0)
    for _ in range(300):
        values = space.values(sample(space, rng))
        again = space.values(space.raw(values))
        for option, value in values.items():
            exact = not isinstance(value, float)
            assert (
                again[option] == value if exact else again[option] == pytest.approx(value, rel=1e-9)
            )


@pytest.mark.parametrize("name", SPACES)
def test_every_proposal_stays_in_range_and_above(name: str) -> None:
    space, rng = Space(SPACES[name], BASELINE), random.Random(1)
    for _ in range(300):
        values = space.values(sample(space, rng))
        for option, entry in space.entries.items():
            if entry.is_range:
                assert entry.low <= values[option] <= entry.high
            if entry.above:
                assert values[option] > values.get(entry.above, BASELINE.to_dict()[entry.above])


@pytest.mark.parametrize("name", SPACES)
def test_rounded_values_have_four_digits_stay_inside_and_lead_back(name: str) -> None:
    space, rng = Space(SPACES[name], BASELINE), random.Random(5)
    for _ in range(200):
        raw = sample(space, rng)
        values, exact = space.values(raw, rounded=True), space.values(raw)
        again = space.values(space.raw(values))
        for option, value in values.items():
            if isinstance(value, float):
                assert value == float(f"{value:.4g}") == pytest.approx(exact[option], rel=2e-3)
                assert again[option] == pytest.approx(value, rel=1e-9)
            else:
                assert value == again[option] and type(value) is type(exact[option])


def test_a_value_between_ends_that_rounding_would_leave_is_kept_inside() -> None:
    narrow = Space({"lr": {"log": [0.123449, 0.1236]}, "Tmin": {"log": [1.00001, 1.00002]}}, NARROW)
    assert narrow.values({"lr": 0.123449, "Tmin": 1.00001}, rounded=True) == {
        "lr": 0.1235,
        "Tmin": 1.00001,
    }


def test_documented_proposals_are_valid_recipes() -> None:
    space, rng = Space(DOCUMENTED, BASELINE), random.Random(2)
    for _ in range(100):
        BASELINE.replace(**space.values(sample(space, rng)))


def test_the_baseline_comes_back_exactly() -> None:
    space = Space(DOCUMENTED, BASELINE)
    assert space.values(space.raw(BASELINE.to_dict())) == {
        "lr": 0.1, "Tmin": 0.01, "Tmax": 10.0, "rotation_update": 1, "warm_up": False,
    }  # fmt: skip


def test_a_warped_baseline_comes_back_exactly() -> None:
    baseline = Recipe(Tmin=0.3, Tmax=3.0)
    space = Space({"Tmin": {"log": [0.1, 2]}, "Tmax": {"log": [0.2, 30]}}, baseline)
    assert space.values(space.raw(baseline.to_dict())) == {"Tmin": 0.3, "Tmax": 3.0}


def test_tmax_equals_its_raw_value_while_tmin_is_below_its_range() -> None:
    values = Space(DOCUMENTED, BASELINE).values(
        {"lr": 0.1, "Tmin": 0.4, "Tmax": 0.5, "rotation_update": 1, "warm_up": True},
    )
    assert values["Tmax"] == 0.5


def test_tmax_keeps_its_relative_position_on_the_log_scale() -> None:
    space = Space({"Tmin": {"log": [0.01, 2]}, "Tmax": {"log": [0.1, 10]}}, BASELINE)
    assert space.values({"Tmin": 1.0, "Tmax": 1.0})["Tmax"] == pytest.approx(
        math.sqrt(10), rel=1e-5
    )


def test_tmax_stays_above_a_tmin_that_is_not_searched() -> None:
    space = Space({"Tmax": {"log": [0.1, 10]}}, BASELINE.replace(Tmin=1.0, Tmax=5.0))
    assert space.values({"Tmax": 0.1})["Tmax"] > 1.0


def test_distributions_are_static_and_leave_fixed_out() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = Space(
        {
            **DOCUMENTED,
            "momentum": {"fixed": 0.8},
            "batch_size": {"integer": [2, 256], "log": True},
        },
        BASELINE,
    )
    assert space.distributions == {
        "lr": FloatDistribution(0.01, 1, log=True),
        "Tmin": FloatDistribution(0.001, 5, log=True),
        "Tmax": FloatDistribution(0.5, 30, log=True),
        "rotation_update": IntDistribution(1, 5),
        "warm_up": CategoricalDistribution([False, True]),
        "batch_size": IntDistribution(2, 256, log=True),
    }


def test_fixed_options_are_in_every_proposal_and_in_the_baseline() -> None:
    space = Space({"lr": {"log": [0.01, 1]}, "momentum": {"fixed": 0.8}}, BASELINE)
    assert space.values({"lr": 0.5}) == {"lr": 0.5, "momentum": 0.8}
    assert space.baseline.momentum == 0.8
    assert space.describe() == [("lr", "log", "0.01 to 1"), ("momentum", "fixed", "0.8")]


def test_describe_says_what_tmax_stays_above() -> None:
    assert ("Tmax", "log", "0.5 to 30, above Tmin") in Space(DOCUMENTED, BASELINE).describe()


def test_grid_is_every_combination() -> None:
    space = Space(
        {
            "lr": {"choice": [0.1, "1e-2"]},
            "rotation_update": {"integer": [1, 3]},
            "warm_up": {"boolean": True},
        },
        BASELINE,
    )
    points = [tuple(space.values(raw).values()) for raw in space.grid()]
    assert len(set(points)) == 12 and (0.01, 3, True) in points


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"Tmn": {"log": [0.1, 1]}}, "'Tmn' is unknown; nearest: Tmin"),
        ({"lr": {"lgo": [0.1, 1]}}, "exactly one of log, linear"),
        ({"lr": 0.1}, "give a kind of log"),
        ({"lr": {"log": [0.1]}}, "give both ends"),
        ({"lr": {"log": [1, 0.1]}}, "must rise"),
        ({"lr": {"log": [0, 1]}}, "lr is 0.0; it must be"),
        ({"momentum": {"log": [0, 0.95]}}, "from above 0"),
        ({"momentum": {"linear": [0, 1.5]}}, "momentum is 1.5"),
        ({"lr": {"linear": [0.01, 1], "abvoe": "Tmin"}}, "'abvoe' is unknown; nearest: above"),
        ({"lr": {"integer": [1, 2]}}, "use log, linear or choice"),
        ({"rotation_update": {"log": [1, 5]}}, "use integer or choice"),
        ({"lr": "boolean"}, "true-or-false options only"),
        ({"lr": {"log": [0.2, 1]}}, "baseline: lr is 0.1, outside its search space (0.2 to 1)"),
        ({"lr_type": {"choice": ["step"]}}, "baseline: lr_type is 'cos'"),
        ({"lr_type": {"choice": ["cos", "sin"]}}, "choose cos or step"),
        ({"lr": {"choice": [0.1, "1e-1"]}}, "twice"),
        ({"lr_decay_step": {"choice": [[30, 60]]}}, "lists as text"),
        ({"epochs": {"integer": [1, 2000]}}, "set it under base"),
        ({"results_dir": {"choice": ["a"]}}, "changes no result"),
        (
            {"lr_type": {"choice": ["cos", "step"]}, "lr_decay_step": {"choice": ["", "10"]}},
            "space lr_type, lr_decay_step: lr_type is step and lr_decay_step is empty",
        ),
        (
            {"model": {"choice": ["resnet20_1w1a", "resnet34_1w1a"]}},
            "space model: model 'resnet34_1w1a' is unknown for cifar10",
        ),
        (
            {"batch_size": {"integer": [1, 512]}},
            "space batch_size: batch_size is 1 for 1 worker(s)",
        ),
        ({"lr": {"fixed": 0.3}}, "searches nothing"),
        (
            {
                "lr": {"log": [0.01, 1], "above": "momentum"},
                "momentum": {"linear": [0.1, 0.95], "above": "lr"},
            },
            "one another",
        ),
        ({"lr": {"log": [0.01, 1], "above": "model"}}, "another numeric recipe option"),
        (
            {"Tmin": {"log": [0.001, 30]}, "Tmax": {"log": [0.5, 30]}},
            "Tmax ends at 30 and must stay above Tmin, up to 30",
        ),
        ({"Tmin": {"log": [0.001, 20]}}, "Tmin reaches 20 and Tmax may be 10"),
        (
            {"Tmin": {"log": [0.001, 2]}, "Tmax": {"choice": [1, 10]}},
            "Tmin reaches 2 and Tmax may be 1",
        ),
        ({"Tmax": {"log": [0.5, 30], "above": "lr"}}, "always above Tmin"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(entries: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Space(entries, BASELINE)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_grid_over_a_range_is_refused() -> None:
    with pytest.raises(RecipeError, match="lr is log, and sampler grid needs finite options"):
        Space({"lr": {"log": [0.01, 1]}}, BASELINE).grid()
