"""Recipe: strict loading, one-line errors, and the documented recipes cell by cell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbnn.errors import RecipeError
from rbnn.files import read_yaml
from rbnn.models import build
from rbnn.recipe import FIELDS, Recipe, checked, load_recipe, recipe_files

ROW = ("dataset", "model", "epochs", "batch_size", "batch_size_test", "warm_up", "use_dali")
DOCUMENTED = {
    "cifar10_resnet20_1w1a": ("cifar10", "resnet20_1w1a", 1000, 256, 128, True, False),
    "cifar10_resnet18_1w1a": ("cifar10", "resnet18_1w1a", 1000, 256, 128, True, False),
    "cifar10_vgg_small_1w1a": ("cifar10", "vgg_small_1w1a", 1000, 256, 128, True, False),
    "imagenet_resnet18_1w1a": ("imagenet", "resnet18_1w1a", 120, 256, 128, True, True),
    "imagenet_resnet18_1w1a_120ep_b512": ("imagenet", "resnet18_1w1a", 120, 512, 256, False, True),
    "imagenet_resnet18_1w1a_120ep_b256": ("imagenet", "resnet18_1w1a", 120, 256, 256, False, True),
    "imagenet_resnet18_1w1a_150ep_b512": ("imagenet", "resnet18_1w1a", 150, 512, 256, False, True),
    "imagenet_resnet34_1w1a_150ep_b512": ("imagenet", "resnet34_1w1a", 150, 512, 256, False, True),
}
COMMON = {
    "lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9, "Tmin": 1e-2, "Tmax": 10.0, "lr_type": "cos",
    "rotation_update": 1, "a32": False,
}  # fmt: skip

GIVE_MILESTONES = "give the milestones, e.g. lr_decay_step 30 60 90"
RISING = "it must be rising epochs of at least 1, e.g. 30 60 90"
AND_DALI = "and use_dali is on; pass --no_use_dali, or leave loader at auto"
TOO_LARGE = "holds a data set in memory, imagenet is too large; choose torchvision"
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"modle": "x"}, "recipe option 'modle' is unknown; nearest: model, compile"),
    ({"dataset": "cifra10"}, "dataset 'cifra10' is unknown; choose cifar10, cifar100"),
    ({"epochs": -3}, "epochs is -3; it must be a whole number of at least 1"),
    ({"epochs": True}, "epochs is True; it must be a whole number"),
    ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
    ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
    ({"batch_size_test": "many"}, "batch_size_test is 'many'; it must be a whole number"),
    ({"lr": "abc"}, "lr is 'abc'; it must be a number"),
    ({"lr": 10**400}, f"lr is {10**400}; it must be a number"),
    ({"epochs": float("inf")}, "epochs is inf; it must be a whole number"),
    ({"lr": 0}, "lr is 0.0; it must be a finite number above 0"),
    ({"lr": float("nan")}, "lr is nan; it must be a finite number above 0"),
    ({"momentum": 1}, "momentum is 1.0; it must be a number from 0 to below 1"),
    ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must be a finite number of at least 0"),
    ({"lr_type": "cosine"}, "lr_type is 'cosine'; choose cos or step"),
    ({"lr_type": "step"}, f"lr_type is step and lr_decay_step is empty; {GIVE_MILESTONES}"),
    ({"lr_decay_step": [60, 30]}, f"lr_decay_step is [60, 30]; {RISING}"),
    ({"lr_decay_step": 7}, "lr_decay_step is 7; it must be a list of whole numbers, e.g. 30 60 90"),
    ({"warm_up": "maybe"}, "warm_up is 'maybe'; it must be true or false"),
    ({"warm_up": 1}, "warm_up is 1; it must be true or false"),
    ({"Tmax": float("inf")}, "Tmax is inf; it must be a finite number above 0"),
    ({"Tmin": 5, "Tmax": 1}, "Tmin is 5 and Tmax 1; Tmin must be below Tmax: swap or change them"),
    ({"rotation_update": 0}, "rotation_update is 0; it must be a whole number of at least 1"),
    ({"val_fraction": 1}, "val_fraction is 1.0; it must be a number from 0 to below 1"),
    ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 4294967295"),
    ({"seed": 2**32}, "seed is 4294967296; it must be a whole number from 0 to 4294967295"),
    ({"gpus": [0]}, "gpus is [0]; it must be text"),
    ({"semantics": "paper"}, "semantics is 'paper'; choose reference or through_rotation"),
    ({"train_workers": 129}, "batch_size is 256 for 129 worker(s); it must be at least 258"),
    ({"batch_size": 1}, "batch_size is 1 for 1 worker(s); it must be at least 2"),
    ({"use_dali": True, "loader": "torchvision"}, f"loader is 'torchvision' {AND_DALI}"),
    ({"dataset": "imagenet", "loader": "resident"}, f"loader 'resident' {TOO_LARGE}"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSALS, ids=[str(changes)[:40] for changes, _ in REFUSALS]
)
def test_a_bad_value_is_told_with_field_value_and_remedy(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe().replace(**changes)
    assert str(error.value) == message


def test_a_recipe_is_frozen_and_its_defaults_are_the_documented_ones() -> None:
    recipe = Recipe()
    assert {name: getattr(recipe, name) for name in COMMON} == COMMON
    row = ("cifar10", "resnet20_1w1a", 1000, 256, 128, False, False)
    assert tuple(getattr(recipe, name) for name in ROW) == row
    ours = (recipe.workers, recipe.print_freq, recipe.time_estimate, recipe.seed)
    assert ours == (8, 100, 1, 1234)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "digits"}, {"model": "resnet20_1w1a"}),  # the data set's default
        ({"dataset": "tinyimagenet"}, {"model": "resnet18_1w1a"}),
        ({"lr": "1e-2"}, {"lr": 0.01}),
        ({"epochs": "12"}, {"epochs": 12}),
        ({"epochs": 12.0}, {"epochs": 12}),
        ({"warm_up": "True"}, {"warm_up": True}),
        ({"gpus": 0}, {"gpus": "0"}),
        ({"lr_type": "step", "lr_decay_step": "30 60,90"}, {"lr_decay_step": (30, 60, 90)}),
        ({"save": None}, {"save": ""}),
    ],
    ids=str,
)
def test_values_have_the_fields_own_type(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = Recipe(**changes)
    for name, value in expected.items():
        assert getattr(recipe, name) == value and type(getattr(recipe, name)) is type(value)


def test_a_recipe_survives_its_own_file(tmp_path: Path) -> None:
    options = {"lr": 0.037, "lr_type": "step", "lr_decay_step": (3, 5), "warm_up": True}
    recipe = Recipe(dataset="digits", gpus="0,1", **options)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


MILESTONES = (
    "lr_decay_step is [30, 60], and lr_type cos has no milestones; give lr_type step, or leave "
    "lr_decay_step out"
)


@pytest.mark.parametrize(
    ("stated", "given", "allowed"),
    [
        ({}, {"lr_decay_step": "30 60"}, False),
        ({"lr_decay_step": [30, 60]}, {}, False),
        ({"lr_decay_step": [30, 60], "lr_type": "cos"}, {}, False),
        ({}, {"lr_decay_step": "30 60", "lr_type": "cos"}, False),
        ({"lr_type": "step"}, {"lr_decay_step": "30 60", "lr_type": "cos"}, False),
        (Recipe().to_dict(), {"lr_decay_step": "30 60"}, False),
        ({"lr_decay_step": [30, 60]}, {"lr_type": "step"}, True),
        ({"lr_type": "step", "lr_decay_step": [5]}, {"lr_decay_step": "30 60"}, True),
        ({"lr_type": "step", "lr_decay_step": [30, 60]}, {"lr_type": "cos"}, True),
        ({"lr_decay_step": []}, {}, True),
        (Recipe(lr_decay_step=(30, 60)).to_dict(), {"epochs": 7}, True),
    ],
)
def test_milestones_without_lr_type_step_are_refused_where_they_are_given(
    stated: dict[str, Any], given: dict[str, Any], allowed: bool, tmp_path: Path
) -> None:
    """But not in a recorded recipe, which states every option."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(stated))
    if allowed:
        assert load_recipe(tmp_path / "mine.yaml", **given).lr == 0.1
        return
    with pytest.raises(RecipeError) as refusal:
        load_recipe(tmp_path / "mine.yaml", **given)
    assert str(refusal.value) == MILESTONES


def test_what_an_option_affects_is_stated_once() -> None:
    of = {kind: set(Recipe().to_dict(kind)) for kind in ("result", "bits", "nothing")}
    assert set().union(*of.values()) == set(FIELDS) == set(Recipe().to_dict())
    assert {"epochs", "lr", "val_fraction", "precision"} <= of["result"]
    assert of["bits"] == {
        "seed", "train_workers", "threads", "gpus", "use_dali", "loader", "compile"
    }  # fmt: skip
    assert {"data_path", "results_dir", "save", "resume", "print_freq", "workers"} <= of["nothing"]
    assert set(Recipe().to_dict("result", "bits")) == of["result"] | of["bits"]


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [("Tmin", "20", 20.0), ("train_workers", 1000, 1000), ("lr_decay_step", "3 5", (3, 5))],
)
def test_one_value_is_checked_by_itself(name: str, value: object, held: object) -> None:
    assert checked(name, value) == held
    with pytest.raises(RecipeError, match=f"^{name} is -?"):
        checked(name, [-1])


def test_every_option_says_what_it_means() -> None:
    assert all(spec.metadata["meaning"] for spec in FIELDS.values())
    shorts = {name: spec.metadata["short"] for name, spec in FIELDS.items()}
    assert {name: short for name, short in shorts.items() if short} == {
        "model": "a",
        "batch_size": "b",
        "batch_size_test": "bt",
        "evaluate": "e",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bogus_key: 1\n", "recipe option 'bogus_key' is unknown; nearest: "),
        ("epochs: [\n", "recipe file '{path}', line 2 is not valid YAML: "),
        ("- 1\n", "recipe file '{path}' must hold 'key: value' lines, not list"),
        ("", "recipe file '{path}' must hold 'key: value' lines, not NoneType"),
        ("lr: fast\n", "lr is 'fast'; it must be a number"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(message.format(path=path)) and "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused_by_its_kind(tmp_path: Path) -> None:
    near = r"nearest: cifar10_resnet20_1w1a, .* \(or give a file\)$"
    with pytest.raises(RecipeError, match=rf"^recipe 'cifar10_resnet20' does not exist; {near}"):
        load_recipe("cifar10_resnet20")
    binary = tmp_path / "binary.yaml"
    with pytest.raises(RecipeError, match=rf"^sweep file '{binary}' does not exist$"):
        read_yaml(binary, "sweep file")
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RecipeError, match=r"' cannot be read: |is not valid YAML: "):
        read_yaml(binary, "sweep file")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_recipe_equals_its_table_row(name: str) -> None:
    recipe = load_recipe(name)
    expected = {**COMMON, **dict(zip(ROW, DOCUMENTED[name], strict=True))}
    assert {field: getattr(recipe, field) for field in expected} == expected


@pytest.mark.parametrize("name", recipe_files())
def test_a_recipe_file_loads_builds_and_states_only_differences(name: str) -> None:
    recipe = load_recipe(name)
    build(recipe.model, recipe.dataset, recipe.a32)
    text = recipe_files()[name].read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word, line in zip(("Source: ", "Command: rbnn ", "Documented: "), header, strict=False):
        assert line.startswith(f"# {word}")
    stated = yaml.safe_load(text)
    for key in stated:
        without = {field: value for field, value in stated.items() if field != key}
        assert Recipe(**without) != recipe, f"{key} is the default"
