"""tune.sweep.config: strict keys, the baseline, the checks made before anything starts, and every
sweep file of the project.
"""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbnn.errors import RecipeError
from tune.sweep.config import load_sweep, parse_sweep, sweep_files

SPACE = {"lr": {"log": [0.01, 1]}}
DIGITS = {"name": "s", "base": {"dataset": "digits", "epochs": 10}, "space": SPACE}
CIFAR = {"name": "s", "base": {"warm_up": True}, "space": SPACE}
HERE = Path()


STEPS = {"lr_type": "step", "lr_decay_step": [5]}


@pytest.mark.parametrize("name", sweep_files())
def test_every_sweep_file_loads_and_survives_its_own_dict(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.name == name and sweep.description
    again = parse_sweep(yaml.safe_load(yaml.safe_dump(sweep.to_dict())), HERE)
    assert again.to_dict() == sweep.to_dict()


def test_defaults() -> None:
    sweep = parse_sweep(CIFAR, HERE)
    known = {"trials": 20, "time_budget_min": None, "concurrent": 0, "seed": 1234, "sampler": "gp"}
    known |= {"workers_per_trial": 1, "gpus_per_trial": 0, "max_failures": 1, "val_fraction": 0.1}
    known |= {"confirm_top": 3, "confirm_seeds": 3, "storage": "", "storage_path": "", "first": ()}
    assert vars(sweep).items() >= known.items()
    scheduler = {"name": "short", "grace_period": 333, "reduction_factor": 3, "brackets": 1}
    assert vars(sweep.scheduler) == scheduler


@pytest.mark.parametrize(("epochs", "grace"), [(10, 6), (4, 4), (400, 100)])
def test_the_default_grace_period_lies_past_the_warm_up(epochs: int, grace: int) -> None:
    keys = {"base": {"warm_up": True, "epochs": epochs}, "scheduler": "asha"}
    assert parse_sweep({**CIFAR, **keys}, HERE).scheduler.grace_period == grace


@pytest.mark.parametrize(
    ("keys", "epochs", "lengths"),
    [
        ({"scheduler": "short"}, 10, [3, 10]),
        ({"scheduler": "short", "sampler": "tpe"}, 400, [44, 133, 400]),
        ({"scheduler": "short"}, 2, [2]),
        ({}, 400, [133, 400]),
        ({"scheduler": "asha"}, 400, [100, 300, 400]),
        ({}, 1, [1]),
        ({"scheduler": {"name": "short", "grace_period": 60}}, 400, [133, 400]),
        ({"scheduler": {"grace_period": 60}}, 400, [60, 180, 400]),
        ({"scheduler": "none"}, 400, [400]),
        ({"base": STEPS}, 10, [6, 10]),
        ({"sampler": "grid", "space": {"warm_up": "boolean"}}, 10, [6, 10]),
    ],
)
def test_the_epochs_after_which_trials_are_compared(
    keys: dict[str, Any], epochs: int, lengths: list[int]
) -> None:
    keys = {**keys, "base": {"epochs": epochs, **keys.get("base", {})}}
    assert parse_sweep({**CIFAR, **keys}, HERE).scheduler.lengths(epochs) == lengths


def test_the_name_is_the_file_stem_and_recipes_are_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("momentum: 0.8\nlr: 0.2\n")
    (tmp_path / "look.yaml").write_text(
        "recipe: mine.yaml\nbase: {lr: 0.3}\nspace: {lr: {log: [0.01, 1]}, seed: {fixed: 3}}\n"
    )
    sweep = load_sweep(tmp_path / "look.yaml")
    assert (sweep.name, sweep.recipe) == ("look", str(tmp_path / "mine.yaml"))
    assert (sweep.baseline.momentum, sweep.baseline.lr, sweep.baseline.seed) == (0.8, 0.3, 3)


def test_settings_to_try_first_lie_in_the_space() -> None:
    first = [{"lr": 0.5}, {"warm_up": True}, {"lr": "1e-1"}]
    sweep = parse_sweep({**DIGITS, "space": {**SPACE, "warm_up": "boolean"}, "first": first}, HERE)
    assert sweep.first == ({"lr": 0.5}, {"warm_up": True}, {"lr": 0.1})


def test_milestones_may_be_given_where_lr_type_is_searched() -> None:
    space = {"lr_type": {"choice": ["cos", "step"]}}
    base = {"dataset": "digits", "lr_decay_step": [5]}
    sweep = parse_sweep({**DIGITS, "base": base, "space": space}, HERE)
    assert sweep.baseline.lr_decay_step == (5,)
    again = {**sweep.to_dict(), "scheduler": "none"}
    assert parse_sweep(again, HERE).to_dict() == {**again, "scheduler": {"name": "none"}}


WARM = {"base": {"dataset": "digits", "epochs": 10, "warm_up": True}}
GRID = {"lr": {"choice": [0.1, 0.2]}, "rotation_update": {"integer": [1, 3]}}


@pytest.mark.parametrize(
    ("keys", "attribute", "value"),
    [
        ({**CIFAR, "val_fraction": 0.2}, "baseline.val_fraction", 0.2),
        (DIGITS, "baseline.val_fraction", 0.0),
        ({**DIGITS, "workers_per_trial": 2}, "baseline.train_workers", 2),
        ({**DIGITS, "sampler": "grid", "space": GRID}, "trials", 6),  # every point
        ({**DIGITS, "scheduler": {"grace_period": 1}}, "scheduler.grace_period", 1),
        ({**DIGITS, **WARM, "scheduler": "none"}, "scheduler.name", "none"),
    ],
)
def test_what_follows_from_a_key(keys: dict[str, Any], attribute: str, value: object) -> None:
    assert attrgetter(attribute)(parse_sweep(keys, HERE)) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 3}, "key 'trails' is unknown; nearest: trials"),
        ({"trials": 0}, "trials is 0; it must be a whole number of at least 1"),
        ({"trials": True}, "trials is True"),
        ({"name": "a b"}, "letters, digits"),
        ({"space": {}}, "at least one range"),
        ({"space": {"lrr": {"log": [0.01, 1]}}}, "'lrr' is unknown; nearest: lr"),
        ({"base": {"modle": "x"}}, "recipe option in base 'modle' is unknown; nearest: model"),
        ({"base": {"val_fraction": 0.2}}, "at the top of the sweep file"),
        ({"base": {"lr": 2}}, "baseline: lr is 2.0, outside its search space (0.01 to 1)"),
        ({"first": [{"lr": 2}]}, "first: lr is 2.0, outside its search space (0.01 to 1)"),
        ({"first": [{"momentum": 0.8}]}, "searched option in first 'momentum' is unknown"),
        ({"recipe": "cifar11"}, "recipe 'cifar11' does not exist"),
        ({"base": {"lr_decay_step": [5]}}, "lr_decay_step is [5], and lr_type cos has no milest"),
        ({"space": {"lr_decay_step": {"choice": ["", "5"]}}}, "lr_type cos has no milestones; giv"),
        ({"sampler": "bayes"}, "one of gp, tpe, random, grid"),
        ({"sampler": "grid"}, "needs finite options"),
        ({"val_fraction": 0.1}, "has its own validation split"),
        ({"gpus_per_trial": 1.5}, "a fraction up to 1"),
        ({"gpus_per_trial": float("inf")}, "a fraction up to 1"),
        ({"first": [{"lr": "high"}]}, "first: lr is 'high'; it must be a number"),
        ({"first": [{"lr": True}]}, "first: lr is True; it must be a number"),
        ({"first": [{"lr": None}]}, "first: lr is None; it must be a number"),
        ({"workers_per_trial": 2, "gpus_per_trial": 0.5}, "is 0.5 for 2 workers, and each takes"),
        ({"time_budget_min": 0}, "minutes above 0"),
        ({"scheduler": "ahsa"}, "one of short, asha, none, or a mapping such as"),
        ({"scheduler": {"grace_periods": 6}}, "'grace_periods' is unknown; nearest: grace_period"),
        ({"scheduler": {"reduction_factor": 1.5}}, "at least 2"),
        ({"scheduler": {"name": "none", "brackets": 3}}, "brackets is 3, and scheduler none has"),
        ({"scheduler": {"name": "short", "brackets": 3}}, "brackets is 3, and scheduler short"),
        ({"scheduler": "short", "base": STEPS}, "which shorter schedules do not"),
        ({"scheduler": {"grace_period": 11}}, "the trials have 10 epochs"),
        ({"scheduler": {"grace_period": 5}, "base": {"warm_up": True}}, "warm-up of 5 epochs;"),
        ({"scheduler": {"grace_period": 5}, "space": {"warm_up": "boolean"}}, "within the warm-up"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_sweep({**DIGITS, **changes}, HERE)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["base", "space"])
def test_a_missing_key_is_named(key: str) -> None:
    missing = "recipe" if key == "base" else key
    with pytest.raises(RecipeError, match=f"^{missing} is missing"):
        parse_sweep({other: value for other, value in DIGITS.items() if other != key}, HERE)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("base: {}\nspace: {lr: {log: [2, 3]}}\n")
    with pytest.raises(RecipeError, match=r"sweep file '.*x\.yaml': baseline: lr is"):
        load_sweep(tmp_path / "x.yaml")
    with pytest.raises(RecipeError, match="does not exist"):
        load_sweep(tmp_path / "y.yaml")


def test_loading_a_sweep_file_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tune.sweep.config import load_sweep; load_sweep('quickstart');"
        "print([name for name in ('torch', 'ray', 'optuna', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
