"""One recorded training run, of `rbnn train` or `rbnn replay`: the loop here or on Ray's workers,
each epoch in MLflow.

A run that is resumed in its own folder goes on in its own MLflow run, whatever became of the
process that began it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rbnn.checkpoint import link, load
from rbnn.console import EpochPrinter, run_directory
from rbnn.engine import BEST, LAST
from rbnn.errors import DataError, RecipeError, RequestError, RunFailed
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.session import Session, resolve
from rbnn.state import check_continues, make_directory
from tune.run.diagnostics import log_diagnostics
from tune.run.journal import Journal
from tune.run.record import Epoch
from tune.sweep.callback import epoch_metrics, existing
from tune.tracking.mirror import Kind, Tracker
from tune.tracking.models import PERIODIC

RUN_FILE = "mlflow_run.txt"  # in a run's folder: the id of the run that it is recorded in


@dataclass(frozen=True)
class Recorded:
    """A finished run: its id in the store, its folder, its epochs and the best val/top1
    (percent).
    """

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
    """Train `recipe` to its end and record it; before anything is written, recipe, data, machine
    and `resume` are checked.

    fingerprint: of the data that it must be trained on, DataError otherwise; conclude: called
    before the MLflow run ends. Raises what `Session.open` and `fit` raise; the MLflow run then ends
    FAILED, or KILLED at Ctrl-C, keeping what was logged.
    """
    recipe = resolve(recipe)
    directory = run_directory(recipe)
    _check_directory(recipe, directory)
    session = Session.open(
        recipe.replace(train_workers=1, gpus="none") if recipe.train_workers > 1 else recipe,
        directory,
    )
    found = session.loaders.info.fingerprint
    if fingerprint and found != fingerprint:
        raise DataError(
            f"data_path '{recipe.data_path}' holds other data than the run was trained on "
            f"(fingerprint {found[:19]}, "
            f"recorded {fingerprint[:19]}); pass --data_path with the folder of the same data"
        )
    if recipe.resume:
        checkpoint = Path(find_checkpoint(recipe.resume))
        check_continues(recipe, load(checkpoint), checkpoint, found)
    given = {"rbnn.recipe": name, **(tags or {})}
    make_directory(directory)
    with tracker.buffered(directory):
        done = _own_run(recipe, directory, tracker)
        if done is None:
            run_id = tracker.start_run(
                kind,
                directory.name,
                recipe=recipe,
                tags=given,
                parent=parent,
                description=description,
            )
            (directory / RUN_FILE).write_text(run_id)
            tracker.log_data(run_id, session.loaders.info.name, found, session.loaders.info.sizes)
            done = Recorded(run_id, directory, [], -math.inf)
        try:
            done = _train(session, recipe, tracker, done)
            _keep_files(tracker, done)
            if conclude:
                conclude(done)
            tracker.finish(done.run_id, "FINISHED")
        except BaseException as error:
            _keep_files(tracker, done)
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            cause = (
                str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
            )
            tracker.finish(
                done.run_id, "KILLED" if stopped else "FAILED", cause="" if stopped else cause
            )
            raise
    return done


def _own_run(recipe: Recipe, directory: Path, tracker: Tracker) -> Recorded | None:
    """The MLflow run of a folder that is resumed in place, running again and with all epochs before
    the checkpoint; or None.

    What the process that died had trained and not sent comes out of the folder's journal.
    """
    file = directory / RUN_FILE
    if not _resumes_in(recipe, directory) or not file.is_file():
        return None
    tracker.flush()
    try:
        run = tracker.find_run(file.read_text())
    except RequestError:
        return None
    if run.info.lifecycle_stage != "active":
        return None
    tracker.resume_run(run.info.run_id)
    done = Recorded(run.info.run_id, directory, [], -math.inf)
    journal = Journal(directory)
    journal.complete()
    for metrics in journal.rows[: load(find_checkpoint(recipe.resume)).epoch]:
        _record(tracker, done, metrics)
    return done


def _resumes_in(recipe: Recipe, directory: Path) -> bool:
    """Whether a recipe goes on with the run of that folder, in it."""
    return (
        bool(recipe.resume)
        and Path(find_checkpoint(recipe.resume)).parent.resolve() == directory.resolve()
    )


def _record(tracker: Tracker, run: Recorded, metrics: dict[str, Any]) -> None:
    values = epoch_metrics(metrics)
    run.epochs.append(as_epoch(metrics["epoch"], values))
    tracker.log_epoch(run.run_id, values, metrics["epoch"])


def _train(session: Session, recipe: Recipe, tracker: Tracker, run: Recorded) -> Recorded:
    """Train to the end, here or on Ray's workers, each epoch into the store; `run` with its epochs
    and its best.
    """
    printer = EpochPrinter(recipe)
    every, alone = recipe.checkpoint_every, recipe.train_workers == 1
    journal = Journal(run.directory)

    def record(metrics: dict[str, Any]) -> None:
        if run.epochs and metrics["epoch"] <= run.epochs[-1].epoch:
            return
        if alone:  # of several workers, rank 0 keeps the journal
            journal.append(metrics)
        _record(tracker, run, metrics)
        if every and (metrics["epoch"] + 1) % every == 0:
            tracker.log_checkpoints(run.run_id, sorted(run.directory.glob(f"{PERIODIC}*.ckpt")))
        printer(metrics, None)

    if alone:
        session.train(lambda metrics, checkpoint: record(metrics), printer.progress)
    else:
        from tune.run.workers import train_with_workers

        if (
            _resumes_in(recipe, run.directory)
            and (source := Path(find_checkpoint(recipe.resume))).name != LAST
        ):
            link(source, run.directory / LAST)  # which is where workers go on
        train_with_workers(recipe, run.directory, record, printer.progress)
    return replace(run, best_top1=printer.best)


def _keep_files(tracker: Tracker, run: Recorded) -> None:
    tracker.log_checkpoints(run.run_id, existing([run.directory / LAST, run.directory / BEST]))
    log_diagnostics(tracker.log_artifact, run.run_id, run.directory)


def as_epoch(epoch: int, metrics: dict[str, Any]) -> Epoch:
    """The metrics of an epoch, apart from its digests."""
    digests = {key: str(value) for key, value in metrics.items() if key.startswith("digest")}
    return Epoch(
        epoch, digests, {key: float(value) for key, value in metrics.items() if key not in digests}
    )


def _check_directory(recipe: Recipe, directory: Path) -> None:
    """A folder that holds a run is continued on request only, never overwritten."""
    if (directory / LAST).exists() and not _resumes_in(recipe, directory):
        raise RecipeError(
            f"save '{directory}' holds a run already; pass --resume {directory} to continue it, "
            "or another --save"
        )
