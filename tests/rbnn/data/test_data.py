"""What `rbnn.data` says of a recipe's data before anything of it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rbnn.data import LOADERS, describe_data, loader_kind, open_loaders
from rbnn.datasets import DATASETS
from rbnn.errors import DataError
from rbnn.recipe import Recipe
from tests.rbnn.small import CPU, KINDS, how


@pytest.mark.parametrize("kind", KINDS)
def test_data_is_described_as_opened(
    kind: str, imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, data_path = ("digits", "") if kind == "resident" else ("imagenet", str(imagenet))
    options = {"batch_size": 8, "val_fraction": 0.25, **how(kind)}
    recipe = Recipe(dataset=name, data_path=data_path, **options)
    opened = open_loaders(recipe, CPU).info
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("a GPU was asked"))
    monkeypatch.setattr(f"{LOADERS[kind]}.loaders", lambda *_: pytest.fail("a loader was made"))
    assert describe_data(recipe.replace(gpus="7")) == opened


def test_data_that_makes_no_batch_is_refused(imagenet: Path) -> None:
    recipe = Recipe(dataset="imagenet", data_path=str(imagenet), batch_size=64, train_workers=10)
    with pytest.raises(DataError, match="too few images for one batch"):
        describe_data(recipe)
    assert describe_data(recipe.replace(train_workers=9)).sizes == {"train": 18, "validation": 7}


def test_auto_takes_memory_where_it_can() -> None:
    kinds = {name: loader_kind(Recipe(dataset=name)) for name in DATASETS}
    assert kinds["cifar10"] == kinds["digits"] == "resident"
    assert kinds["imagenet"] == kinds["tinyimagenet"] == "torchvision"
    assert loader_kind(Recipe(dataset="imagenet", use_dali=True)) == "dali"
