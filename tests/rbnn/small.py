"""Small trainings on a few digits: what is trained, who hears it, what ends it, what is left."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from rbnn import checkpoint
from rbnn.data import LOADERS, digits, open_loaders
from rbnn.data.source import Source
from rbnn.diagnostics import TABLE
from rbnn.distributed import World
from rbnn.engine import BEST, LAST, Report, TrainState, fit
from rbnn.recipe import Recipe

CPU = torch.device("cpu")
read_all = digits.read  # before a test puts few in its place
HAS_DALI = bool(importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"))
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
KINDS = [pytest.param(kind, marks=needs_dali if kind == "dali" else ()) for kind in LOADERS]
# Epochs of three steps.
RECIPE = Recipe(
    dataset="digits",
    batch_size=8,
    batch_size_test=16,
    Tmin=0.3,
    Tmax=3,
    workers=1,
    threads=1,
    print_freq=1,
)


def how(kind: str) -> dict[str, Any]:
    """The options of a recipe that choose a loader."""
    return {"use_dali": True} if kind == "dali" else {"loader": kind}


def few_digits(num_train: int = 24, num_val: int = 17, num_classes: int = 10) -> Source:
    """The first images of each split, of the given classes only."""
    source = read_all()
    splits = []
    for split, num in ((source.train, num_train), (source.val, num_val)):
        splits.append(split.subset((split.labels < num_classes).nonzero()[0][:num]))
    return Source(*splits, source.classes, "sha256:few")


class Interrupted(Exception):
    """The end of a part of a run."""


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


class Listener:
    """Notes each epoch's metrics, which must not change when heard again, and may raise.

    at: (epoch, step) after which the run is interrupted; step None: when the epoch's metrics are
    about to be heard.
    """

    def __init__(
        self, at: tuple[int, int | None] | None = None, heard: dict[int, Any] | None = None
    ) -> None:
        self.at = at
        self.heard = {} if heard is None else heard

    def __call__(self, metrics: dict[str, Any], path: Path | None) -> None:
        if self.at == (metrics["epoch"], None):
            raise Interrupted
        plain = without_times(metrics)
        assert self.heard.setdefault(metrics["epoch"], plain) == plain

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        if self.at == (epoch, step):
            raise Interrupted


def train(recipe: Recipe, report: Report | None = None, **options: Any) -> TrainState:
    """`fit` on what the recipe's loader reads; options: those of `fit`."""
    loaders = open_loaders(recipe, CPU, World.current())
    return fit(recipe, loaders, report or Listener(), **options)


def train_part(recipe: Recipe, folder: Path, listener: Listener) -> None:
    """Go on from the folder's last checkpoint, if any, to where the listener raises or the end."""
    last = folder / LAST
    resume = last if last.exists() else None
    train(recipe, listener, directory=folder, resume=resume, progress=listener.progress)


def outcome(folder: Path) -> list[str]:
    """What a run left, to compare: checkpoints without times, the table, half-written files."""
    digests = []
    for name in (LAST, BEST):
        state = checkpoint.load(folder / name)
        recipe = Recipe(**state.recipe).to_dict("result", "bits")
        changes = {"metrics": without_times(state.metrics), "recipe": recipe}
        digests.append(checkpoint.digest_of(dataclasses.asdict(state) | changes))
    return [*digests, (folder / TABLE).read_text(), *map(str, folder.glob(".*"))]
