"""Runs as a training leaves them in their folders and in MLflow, without one having run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rbnn.engine import LAST
from rbnn.recipe import Recipe
from rbnn.state import CheckpointWriter, start
from tune.run.folder import RunFolder, RunInfo, State
from tune.run.journal import Journal
from tune.tracking.mirror import Mirror

COUNT = itertools.count()


def made_run(
    place: Path,
    recipe: Recipe | None = None,
    epochs: Sequence[dict[str, Any]] = (),
    state: State = "running",
    **info: Any,
) -> RunFolder:
    """The folder of a run under `place` with these metrics by epoch."""
    directory = place / f"run-{next(COUNT)}"
    run = RunFolder.begin(directory, RunInfo(**{"name": directory.name, **info}), recipe)
    journal = Journal(directory)
    for epoch, metrics in enumerate(epochs):
        journal.append({"epoch": epoch, **metrics})
    if state != "running":
        run.end(state)
    return run


def networked_run(mirror: Mirror, place: Path, recipe: Recipe) -> tuple[str, Path]:
    """(MLflow's id of a complete trial of one epoch, its last.ckpt); the network is untrained."""
    run = made_run(place, recipe, [{"val/top1": 50.0}], kind="trial")
    state = start(recipe, torch.device("cpu"))
    state.epoch, state.metrics = 1, {"epoch": 0, "val/top1": 50.0}
    CheckpointWriter(run.directory, "sha256:ab").epoch(state)
    run.end("complete")
    return mirror.sync(run.directory), run.directory / LAST


def recorded_run(mirror: Mirror, place: Path, *given: Any, **info: Any) -> str:
    """MLflow's id of such a run."""
    return mirror.sync(made_run(place, *given, **info).directory)
