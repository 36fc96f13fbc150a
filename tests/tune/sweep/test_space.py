"""tune.sweep.space and tune.sweep.param: what a search space accepts, and that raw values and
recipe values lead to one another.
"""

from __future__ import annotations

import math
import random
from typing import Any

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
    raw: dict[str, object] = {}
    for name, entry in space.entries.items():
        if not entry.is_range:
            raw[name] = rng.choice(entry.choices)[0]
        elif entry.kind == "integer":
            raw[name] = rng.randint(int(entry.low), int(entry.high))
        else:
            scale, back = (math.log, math.exp) if entry.log else (float, float)
            low, high = scale(entry.low), scale(entry.high)
            share = rng.choice([0.0, 1.0, *(rng.random() for _ in range(3))])
            raw[name] = min(max(back(low + (high - low) * share), entry.low), entry.high)
    return raw


@pytest.mark.parametrize("name", SPACES)
def test_every_proposal_stays_inside_has_four_digits_and_leads_back(name: str) -> None:
    space, rng = Space(SPACES[name], BASELINE), random.Random(0)
    for _ in range(300):
        raw = sample(space, rng)
        exact, rounded = space.values(raw), space.values(raw, rounded=True)
        BASELINE.replace(**exact)
        for values in (exact, rounded):
            again = space.values(space.raw(values))
            assert again == {option: near(value, 1e-9) for option, value in values.items()}
            for option, entry in space.entries.items():
                if entry.is_range:
                    assert entry.low <= values[option] <= entry.high
                if entry.above:
                    assert values[option] > values.get(entry.above, getattr(BASELINE, entry.above))
        assert rounded == {option: near(value, 2e-3) for option, value in exact.items()}
        for option, value in rounded.items():
            assert type(value) is type(exact[option])
            assert not isinstance(value, float) or value == float(f"{value:.4g}")


def near(value: Any, share: float) -> Any:
    """A number to so much of it; anything else as it is."""
    return pytest.approx(value, rel=share) if isinstance(value, float) else value


def test_a_value_between_ends_that_rounding_would_leave_is_kept_inside() -> None:
    narrow = Space({"lr": {"log": [0.123449, 0.1236]}, "Tmin": {"log": [1.00001, 1.00002]}}, NARROW)
    values = narrow.values({"lr": 0.123449, "Tmin": 1.00001}, rounded=True)
    assert values == {"lr": 0.1235, "Tmin": 1.00001}


@pytest.mark.parametrize(
    ("entries", "known"),
    [
        (DOCUMENTED, {"Tmin": 0.01, "Tmax": 10.0}),
        ({"Tmin": {"log": [0.1, 2]}, "Tmax": {"log": [0.2, 30]}}, {"Tmin": 0.3, "Tmax": 3.0}),
    ],
)
def test_the_baseline_comes_back_exactly(entries: Any, known: dict[str, float]) -> None:
    baseline = BASELINE.replace(**known)
    space = Space(entries, baseline)
    values = {name: getattr(baseline, name) for name in entries}
    assert space.values(space.raw(baseline.to_dict())) == values


@pytest.mark.parametrize(
    ("tmin", "tmax", "raw", "found"),
    [
        ([0.001, 5], [0.5, 30], {"Tmin": 0.4, "Tmax": 0.5}, 0.5),  # Tmin is below the range
        ([0.01, 2], [0.1, 10], {"Tmin": 1.0, "Tmax": 1.0}, pytest.approx(math.sqrt(10), rel=1e-5)),
        (None, [0.1, 10], {"Tmax": 0.1}, pytest.approx(1, rel=1e-5)),  # as Tmin is not searched
    ],
)
def test_tmax_keeps_its_place_above_tmin(
    tmin: Any, tmax: Any, raw: dict[str, float], found: Any
) -> None:
    entries = {"Tmin": {"log": tmin}, "Tmax": {"log": tmax}}
    space = Space(
        {"Tmax": entries["Tmax"]} if tmin is None else entries, BASELINE.replace(Tmin=1.0, Tmax=5.0)
    )
    values = space.values(raw)
    assert values["Tmax"] == found and values["Tmax"] > values.get("Tmin", 1.0)


def test_distributions_are_static_and_leave_fixed_out() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    batches = {"integer": [2, 256], "log": True}
    space = Space({**DOCUMENTED, "momentum": {"fixed": 0.8}, "batch_size": batches}, BASELINE)
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
    assert ("Tmax", "log", "0.5 to 30, above Tmin") in Space(DOCUMENTED, BASELINE).describe()


def test_grid_is_every_combination() -> None:
    entries = {"lr": {"choice": [0.1, "1e-2"]}, "rotation_update": {"integer": [1, 3]}}
    space = Space({**entries, "warm_up": {"boolean": True}}, BASELINE)
    points = [tuple(space.values(raw).values()) for raw in space.grid()]
    assert len(set(points)) == 12 and (0.01, 3, True) in points
    with pytest.raises(RecipeError, match="lr is log, and sampler grid needs finite options"):
        Space({"lr": {"log": [0.01, 1]}}, BASELINE).grid()


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
