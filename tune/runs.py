"""One recorded training run, of `rbnn train` or `rbnn replay`: the loop here or on Ray's workers, each epoch in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.checkpoint import load
from rbnn.engine import BEST, LAST
from rbnn.errors import RecipeError, RunFailed
from rbnn.listeners import EpochPrinter, run_directory
from rbnn.machine import resolve
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.session import Session
from tune.recording import epoch_metrics, existing
from tune.tracking import Kind, Tracker


@dataclass(frozen=True)
class Recorded:
    """A finished run: its id in the store, its folder, its last epoch's metrics and the best val/top1 (percent)."""

    run_id: str
    directory: Path
    metrics: dict[str, Any]
    best_top1: float


def train_recorded(
    recipe: Recipe, tracker: Tracker, *, kind: Kind = "train", name: str = "", tags: dict[str, str] | None = None
) -> Recorded:
    """Train `recipe` to its end and record it; nothing is written before the recipe, the data and the machine are checked.

    Raises what `Session.open` and `fit` raise; the MLflow run then ends FAILED, or KILLED at Ctrl-C, keeping what was logged.
    """
    recipe = resolve(recipe)
    directory = run_directory(recipe)
    _check_directory(recipe, directory)
    session = Session.open(recipe.replace(train_workers=1, gpus="none") if recipe.train_workers > 1 else recipe, directory)
    if recipe.resume:
        load(find_checkpoint(recipe.resume))
    run_id = tracker.start_run(kind, directory.name, recipe=recipe, tags={"rbnn.recipe": name, **(tags or {})})
    tracker.log_data(run_id, session.loaders.info.name, session.loaders.info.fingerprint, session.loaders.info.sizes)
    printer = EpochPrinter(recipe)
    last: dict[str, Any] = {}

    def record(metrics: dict[str, Any]) -> None:
        if "epoch" in last and metrics["epoch"] <= last["epoch"]:
            return
        last.clear()
        last.update(metrics)
        tracker.log_epoch(run_id, epoch_metrics(metrics), metrics["epoch"])
        printer(metrics, None)

    try:
        if recipe.train_workers == 1:
            session.train(lambda metrics, checkpoint: record(metrics), printer.progress)
        else:
            from tune.trainer import train_with_workers

            train_with_workers(recipe, directory, record)
        tracker.log_checkpoints(run_id, existing([directory / LAST, directory / BEST]))
        tracker.finish(run_id, "FINISHED")
    except BaseException as error:
        tracker.log_checkpoints(run_id, existing([directory / LAST, directory / BEST]))
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        cause = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
        tracker.finish(run_id, "KILLED" if stopped else "FAILED", cause="" if stopped else cause)
        raise
    return Recorded(run_id, directory, last, printer.best)


def _check_directory(recipe: Recipe, directory: Path) -> None:
    """A folder that holds a run is continued on request only, never overwritten."""
    resumed = Path(find_checkpoint(recipe.resume)).parent.resolve() if recipe.resume else None
    if (directory / LAST).exists() and resumed != directory.resolve():
        raise RecipeError(
            f"save '{directory}' holds a run already; pass --resume {directory} to continue it, or another --save"
        )
