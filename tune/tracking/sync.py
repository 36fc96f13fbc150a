"""Every run of a folder brought to MLflow, as `rbnn sync` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rbnn.errors import RequestError
from tune.run.folder import SWEEP_RECORD, run_folders
from tune.sweep.folder import SweepFolder
from tune.tracking.address import tracking_uri
from tune.tracking.mirror import Mirror
from tune.tracking.thread import is_outage
from tune.uris import told, with_absolute_path


def sync_all(
    root: Path, to: str = "", progress: Callable[[int, int], object] = lambda done, total: None
) -> tuple[int, list[str]]:
    """Sync the runs in a folder and below it; (how many, what the store refused, a line each).

    to: the store, by URI; without it a sweep's runs go to the sweep's own store, others to where
    MLFLOW_TRACKING_URI says. Raises RequestError where a store does not answer.
    """
    mirrors: dict[str, Mirror] = {}
    refused: list[str] = []
    runs = run_folders(root)
    for done, run in enumerate(runs):
        uri = with_absolute_path(to) if to else home_store(run.directory)
        if uri not in mirrors:
            mirrors[uri] = Mirror.open(uri)
            mirrors[uri].prefetch()
        try:
            mirrors[uri].sync(run.directory)
        # One run that the store refuses is no reason to leave out the others.
        except Exception as error:
            if is_outage(error):
                raise RequestError(
                    f"the MLflow store stopped answering after {done} of {len(runs)} runs: "
                    f"{told(error)}; try again, what is there stays"
                ) from None
            refused.append(f"{run.directory}: {told(error)}")
        progress(done + 1, len(runs))
    return len(runs) - len(refused), refused


def home_store(directory: Path) -> str:
    """The store of the sweep that a run's folder lies in, or the default one."""
    for folder in (directory, *list(directory.resolve().parents)[:2]):
        if (folder / SWEEP_RECORD).is_file():
            return SweepFolder(folder).store_uri()
    return tracking_uri()
