"""One recorded training run, of `rbnn train` or `rbnn replay`: the loop here or on Ray's workers, each epoch in MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rbnn.checkpoint import load
from rbnn.engine import BEST, LAST
from rbnn.errors import DataError, RecipeError, RunFailed
from rbnn.listeners import EpochPrinter, run_directory
from rbnn.machine import resolve
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.run import make_directory
from rbnn.session import Session
from tune.diagnostics_plot import log_diagnostics
from tune.logged_models import PERIODIC
from tune.recording import epoch_metrics, existing
from tune.run_record import Epoch
from tune.tracking import Kind, Tracker


@dataclass(frozen=True)
class Recorded:
    """A finished run: its id in the store, its folder, its epochs and the best val/top1 (percent)."""

    run_id: str
    directory: Path
    epochs: list[Epoch]
    best_top1: float


def train_recorded(
    recipe: Recipe,
    tracker: Tracker,
    *,
    kind: Kind = "train",
    name: str = "",
    tags: dict[str, str] | None = None,
    parent: str | None = None,
    description: str = "",
    fingerprint: str = "",
    conclude: Callable[[Recorded], None] | None = None,
) -> Recorded:
    """Train `recipe` to its end and record it; nothing is written before the recipe, the data and the machine are checked.

    fingerprint: of the data that it must be trained on, DataError otherwise; conclude: called before the MLflow run ends.
    Raises what `Session.open` and `fit` raise; the MLflow run then ends FAILED, or KILLED at Ctrl-C, keeping what was logged.
    """
    recipe = resolve(recipe)
    directory = run_directory(recipe)
    _check_directory(recipe, directory)
    session = Session.open(recipe.replace(train_workers=1, gpus="none") if recipe.train_workers > 1 else recipe, directory)
    if recipe.resume:
        load(find_checkpoint(recipe.resume))
    found = session.loaders.info.fingerprint
    if fingerprint and found != fingerprint:
        raise DataError(
            f"data_path '{recipe.data_path}' holds other data than the run was trained on (fingerprint {found[:19]}, "
            f"recorded {fingerprint[:19]}); pass --data_path with the folder of the same data"
        )
    given = {"rbnn.recipe": name, **(tags or {})}
    make_directory(directory)
    with tracker.buffered(directory):
        run_id = tracker.start_run(kind, directory.name, recipe=recipe, tags=given, parent=parent, description=description)
        tracker.log_data(run_id, session.loaders.info.name, session.loaders.info.fingerprint, session.loaders.info.sizes)
        done = Recorded(run_id, directory, [], -math.inf)
        try:
            done = _train(session, recipe, tracker, done)
            _keep_files(tracker, done)
            if conclude:
                conclude(done)
            tracker.finish(run_id, "FINISHED")
        except BaseException as error:
            _keep_files(tracker, done)
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            cause = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
            tracker.finish(run_id, "KILLED" if stopped else "FAILED", cause="" if stopped else cause)
            raise
    return done


def _train(session: Session, recipe: Recipe, tracker: Tracker, run: Recorded) -> Recorded:
    """Train to the end, here or on Ray's workers, each epoch into the store; `run` with its epochs and its best."""
    printer = EpochPrinter(recipe)
    every = recipe.checkpoint_every

    def record(metrics: dict[str, Any]) -> None:
        if run.epochs and metrics["epoch"] <= run.epochs[-1].epoch:
            return
        values = epoch_metrics(metrics)
        run.epochs.append(as_epoch(metrics["epoch"], values))
        tracker.log_epoch(run.run_id, values, metrics["epoch"])
        if every and (metrics["epoch"] + 1) % every == 0:
            tracker.log_checkpoints(run.run_id, sorted(run.directory.glob(f"{PERIODIC}*.ckpt")))
        printer(metrics, None)

    if recipe.train_workers == 1:
        session.train(lambda metrics, checkpoint: record(metrics), printer.progress)
    else:
        from tune.trainer import train_with_workers

        train_with_workers(recipe, run.directory, record, printer.progress)
    return replace(run, best_top1=printer.best)


def _keep_files(tracker: Tracker, run: Recorded) -> None:
    tracker.log_checkpoints(run.run_id, existing([run.directory / LAST, run.directory / BEST]))
    log_diagnostics(tracker.log_artifact, run.run_id, run.directory)


def as_epoch(epoch: int, metrics: dict[str, Any]) -> Epoch:
    """The metrics of an epoch, apart from its digests."""
    digests = {key: str(value) for key, value in metrics.items() if key.startswith("digest")}
    return Epoch(epoch, digests, {key: float(value) for key, value in metrics.items() if key not in digests})


def _check_directory(recipe: Recipe, directory: Path) -> None:
    """A folder that holds a run is continued on request only, never overwritten."""
    resumed = Path(find_checkpoint(recipe.resume)).parent.resolve() if recipe.resume else None
    if (directory / LAST).exists() and resumed != directory.resolve():
        raise RecipeError(
            f"save '{directory}' holds a run already; pass --resume {directory} to continue it, or another --save"
        )
