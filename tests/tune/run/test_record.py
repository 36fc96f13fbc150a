"""Exported runs, refused in one line where they hold none; and which recipe a replay runs: a named
one, a file's, or a recorded run's, which nothing may change.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import Recipe, load_recipe
from tune.run.record import RunRecord, find_recipe, is_record, read_record

RECIPE = Recipe(dataset="digits", epochs=2, lr=0.1 + 0.2, lr_type="step", lr_decay_step=(1,))

RECORD = RunRecord(
    "ab" * 16, "first", "train", "FINISHED", "mine", RECIPE.to_dict(), {"torch": "2"}, {}, []
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "has format version 2, this program reads 1"),
        ({"format": "other"}, "is no exported run"),
        ({"epochs": [{"epoch": 0}]}, "is damaged"),
        ({"recipe": {"lr": -1}}, "holds a recipe that this program refuses: lr is -1"),
        ({"recipe": {"no": 1}}, "is damaged"),
    ],
)
def test_a_file_that_does_not_hold_a_run_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "run.json"
    RECORD.write(path)
    assert is_record(path) and read_record(path) == RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=reason) as refusal:
        read_record(path)
    assert "\n" not in str(refusal.value)


def test_files_of_another_kind_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("lr: 0.1\n")
    for path in (tmp_path / "recipe.yaml", tmp_path / "missing", tmp_path):
        assert not is_record(path)
    with pytest.raises(RequestError, match="is no exported run"):
        read_record(tmp_path / "recipe.yaml")


RUN_ID = "0123456789abcdef" * 2
RECORDED = Recipe(dataset="digits", lr=0.3, save="there", resume="old.ckpt", threads=2)


def find(wanted: str) -> RunRecord:
    """A store that holds one run."""
    if not RUN_ID.startswith(wanted):
        raise RequestError(f"run '{wanted}' in fake is unknown")
    return replace(RECORD, run_id=RUN_ID, recipe_name="look", recipe=RECORDED.to_dict())


def found(target: str, **given: Any) -> tuple[Recipe, str, str]:
    return find_recipe(target, given, find)


def test_a_named_recipe_takes_options_on_top() -> None:
    expected = load_recipe("cifar10_resnet20_1w1a", epochs=400)
    assert found("cifar10_resnet20_1w1a", epochs="400") == (expected, "cifar10_resnet20_1w1a", "")


def test_a_file_takes_options_on_top(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 0.3\nmomentum: 0.5\n")
    recipe, _, source = found(str(tmp_path / "mine.yaml"), lr="0.2")
    assert (recipe.lr, recipe.momentum, source) == (0.2, 0.5, "")


@pytest.mark.parametrize("target", [RUN_ID, RUN_ID[:8]])
def test_a_recorded_run_gives_its_own_recipe_in_a_new_folder(target: str) -> None:
    recipe, name, source = found(target, print_freq="7")
    assert recipe == RECORDED.replace(save="", resume="", print_freq=7)
    assert (name, source) == ("look", RUN_ID)


@pytest.mark.parametrize("option", ["lr", "seed", "threads", "gpus", "train_workers"])
def test_a_recorded_run_takes_nothing_that_could_change_it(option: str) -> None:
    reason = f"^{option} would change run {RUN_ID[:8]}; to vary it, export its recipe and edit"
    with pytest.raises(RecipeError, match=reason):
        found(RUN_ID[:8], **{option: "1"})


def test_an_unknown_target_is_refused_as_what_it_looks_like() -> None:
    with pytest.raises(RequestError, match=r"^run 'fedcba98' in fake is unknown$"):
        found("fedcba98")
    reason = "recipe 'cifar10_resnet20' does not exist; nearest: cifar10_resnet20_1w1a"
    with pytest.raises(RecipeError, match=reason):
        found("cifar10_resnet20")
