"""One training in a folder of its own, of `rbnn train` or `rbnn replay`: the loop here or on Ray's
workers.

A run that is resumed in its own folder stays the run it was, whatever became of the process that
began it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rbnn.checkpoint import link, load
from rbnn.console import EpochPrinter, run_directory
from rbnn.data import describe_data
from rbnn.data.loading import DataInfo
from rbnn.engine import LAST
from rbnn.errors import DataError, RecipeError
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.session import Session
from rbnn.state import check_continues, make_directory
from tune.run.failure import end_of
from tune.run.folder import Kind, RunFolder, RunInfo
from tune.run.journal import Journal
from tune.run.listener import Listener
from tune.run.record import Epoch, as_epoch


@dataclass(frozen=True)
class TrainResult:
    """A finished run. best_top1: its best val/top1 (percent), epochs before a resume included."""

    run: RunFolder
    best_top1: float

    @property
    def directory(self) -> Path:
        return self.run.directory

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def epochs(self) -> list[Epoch]:
        return [as_epoch(row) for row in self.run.epochs]


@contextmanager
def going_on(run: RunFolder, listener: Listener) -> Iterator[None]:
    """Within it a run goes on: the listener hears so, and how it ended is recorded."""
    listener.run_began(run)
    try:
        yield
        run.end("complete")
    except BaseException as error:
        run.end(*end_of(error))
        raise
    finally:
        listener.run_ended(run)


def train_recorded(recipe: Recipe, listener: Listener, **about: Any) -> TrainResult:
    """Train a resolved recipe to its end and record it in its folder; see `training`."""
    with training(recipe, listener, **about) as result:
        return result


@contextmanager
def training(
    recipe: Recipe,
    listener: Listener,
    *,
    kind: Kind = "train",
    name: str = "",
    tags: dict[str, str] | None = None,
    parent: str = "",
    fingerprint: str = "",
) -> Iterator[TrainResult]:
    """Train a resolved recipe and record it in its folder; within it all epochs are there, and the
    run has not ended yet. Its data and `resume` are checked before anything is written.

    name: of the recipe; parent: id of the run that it belongs to; fingerprint: of the data that it
    must be trained on, DataError otherwise. Raises what `Session.open` and `fit` raise.
    """
    directory = run_directory(recipe)
    _check_directory(recipe, directory)
    session = Session.open(recipe, directory) if recipe.train_workers == 1 else None
    data = session.loaders.info if session else describe_data(recipe)
    _check_data(recipe, data, fingerprint)
    make_directory(directory)
    run = RunFolder(directory)
    if run.exists and _resumes_in(recipe, directory):
        Journal(directory).complete()
        run.resume()
    else:
        tags = {"rbnn.recipe": name, **(tags or {})}
        info = RunInfo(kind=kind, name=directory.name, parent=parent, tags=tags, data=asdict(data))
        run = RunFolder.begin(directory, info, recipe)
    with going_on(run, listener):
        yield _train(session, recipe, run, listener)


def _train(
    session: Session | None, recipe: Recipe, run: RunFolder, listener: Listener
) -> TrainResult:
    """Train to the end: in the session here, or without one on Ray's workers."""
    printer, journal = EpochPrinter(recipe), Journal(run.directory)
    last = -1

    def report(metrics: dict[str, Any]) -> None:
        nonlocal last
        if metrics["epoch"] > last:  # workers that go on after a death report an epoch again
            last = metrics["epoch"]
            journal.append(metrics)  # of several workers, rank 0 has done so already
            listener.epoch_ended(run, metrics)
            printer(metrics, None)

    if session:
        session.train(lambda metrics, checkpoint: report(metrics), printer.progress)
    else:
        from tune.run.workers import train_with_workers

        if _resumes_in(recipe, run.directory):
            source = Path(find_checkpoint(recipe.resume))
            if source.name != LAST:
                link(source, run.directory / LAST)  # which is where workers go on
        train_with_workers(recipe, run.directory, report, printer.progress)
    return TrainResult(run, printer.best if printer.best > -math.inf else math.nan)


def _resumes_in(recipe: Recipe, directory: Path) -> bool:
    """Whether a recipe goes on with the run of that folder, in it."""
    if not recipe.resume:
        return False
    return Path(find_checkpoint(recipe.resume)).parent.resolve() == directory.resolve()


def _check_data(recipe: Recipe, data: DataInfo, fingerprint: str) -> None:
    """Refuse data other than those that the run, or the checkpoint, was trained on."""
    if fingerprint and data.fingerprint != fingerprint:
        raise DataError(
            f"data_path '{recipe.data_path}' holds other data than the run was trained on "
            f"(fingerprint {data.fingerprint[:19]}, recorded {fingerprint[:19]}); pass --data_path "
            "with the folder of the same data"
        )
    if recipe.resume:
        checkpoint = Path(find_checkpoint(recipe.resume))
        check_continues(recipe, load(checkpoint), checkpoint, data.fingerprint)


def _check_directory(recipe: Recipe, directory: Path) -> None:
    """A folder that holds a run is continued on request only, never overwritten."""
    if (directory / LAST).exists() and not _resumes_in(recipe, directory):
        remedy = f"pass --resume {directory} to continue it, or another --save"
        raise RecipeError(f"save '{directory}' holds a run already; {remedy}")
