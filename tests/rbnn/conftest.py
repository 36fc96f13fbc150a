"""Shared by the tests of the loop: a few real images in memory, and what a run leaves in its
folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rbnn import checkpoint
from rbnn.data import digits, resident
from rbnn.data.loading import DataInfo, Loaders
from rbnn.data.source import Split
from rbnn.diagnostics import TABLE
from rbnn.distributed import World
from rbnn.engine import BEST, LAST
from rbnn.recipe import Recipe


@pytest.fixture
def few_digits() -> Callable[..., Loaders]:
    """Loaders over the first `num_train` and `num_val` digits, of the given classes only."""

    def loaders(
        recipe: Recipe, num_train: int = 64, num_val: int = 37, num_classes: int = 10
    ) -> Loaders:
        source = digits.read()
        splits = []
        for split, num in ((source.train, num_train), (source.val, num_val)):
            chosen = (split.labels < num_classes).nonzero()[0][:num]
            splits.append(Split(split.array[chosen], split.labels[chosen]))
        train, val = resident.loaders(recipe, *splits, torch.device("cpu"), World())
        return Loaders(
            train,
            val,
            DataInfo("digits", "sha256:few", {"train": num_train, "validation": num_val}),
        )

    return loaders


@pytest.fixture
def outcome() -> Callable[[Path], list[str]]:
    """What a run left in its folder, to compare: checkpoints without times, the table, half-written
    files.
    """

    def content(path: Path) -> str:
        state = checkpoint.load(path)
        metrics = {
            name: value for name, value in state.metrics.items() if not name.startswith("time/")
        }
        recipe = Recipe(**state.recipe).to_dict("result", "bits")
        return checkpoint.digest_of(
            {**dataclasses.asdict(state), "metrics": metrics, "recipe": recipe}
        )

    def of(folder: Path) -> list[str]:
        return [
            content(folder / LAST),
            content(folder / BEST),
            (folder / TABLE).read_text(),
            *map(str, folder.glob(".*")),
        ]

    return of
