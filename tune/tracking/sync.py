"""Folders brought to MLflow: all that lie in one place, now (`sync_all`), or each as it changes, in
a thread, so that no run waits for it (`MirrorThread`).

The thread holds nothing but the names of folders that have changed: what a store that is away does
not take stays in the folders, and `rbnn sync` brings it there at any later time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.errors import RequestError
from tune.run.folder import SWEEP_RECORD, RunFolder, run_folders
from tune.run.listener import Listener, warn
from tune.sweep.folder import SweepFolder
from tune.tracking.address import check_reachable, tracking_uri
from tune.tracking.mirror import Mirror
from tune.uris import told, with_absolute_path

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
CLOSE_PATIENCE_S = 60.0
REFUSED_AFTER = 3  # attempts while the store does answer


class MirrorThread(Listener):
    """Syncs the folders that it hears of, in its own thread; `close` at the end."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._changed: dict[Path, None] = {}  # a set that keeps the order
        self._condition = threading.Condition()
        self._attempts: dict[Path, int] = {}
        self._away = False
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def run_began(self, run: RunFolder) -> None:
        """Note that a folder has changed; returns at once."""
        with self._condition:
            self._changed[run.directory.resolve()] = None
            self._condition.notify_all()

    run_ended = sweep_changed = run_began

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        self.run_began(run)

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> bool:
        """Bring what is left to the store and end the thread; False, said, where it stayed away."""
        if self._away:
            warn(f"the MLflow store does not answer; waiting up to {patience_s:.0f} s for it")
        with self._condition:
            self._give_up_at = time.monotonic() + patience_s
            self._condition.notify_all()
        try:
            self._thread.join()
        except KeyboardInterrupt:
            warn("bringing what is left to MLflow, which rbnn sync would do later as well")
            self._thread.join()
        if self._changed:
            warn(
                f"the MLflow store lacks {len(self._changed)} run(s), which are complete in their "
                "folders; when it answers again: rbnn sync"
            )
        return not self._changed

    @property
    def _closing(self) -> bool:
        return self._give_up_at < float("inf")

    def _run(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._closing)
                late = self._away and time.monotonic() >= self._give_up_at
                if not self._changed or late:
                    return
                directory = next(iter(self._changed))
                del self._changed[directory]
            done = self._sync(directory)
            if done:
                delay = FIRST_RETRY_S
                continue
            with self._condition:
                self._changed = {directory: None, **self._changed}
                left = self._give_up_at - time.monotonic()
                self._condition.wait(max(min(delay, left), 0.0))
                delay = min(2 * delay, LONGEST_RETRY_S)

    def _sync(self, directory: Path) -> bool:
        """Whether a folder is done with: the store has it, or refused it for good (said so)."""
        if self._away and not self._answers():
            return False
        try:
            self.mirror.sync(directory)
        # Training goes on, whatever the store's client raises; what it was is said below.
        except Exception as error:
            attempts = self._attempts[directory] = self._attempts.get(directory, 0) + 1
            if is_outage(error) and (attempts < REFUSED_AFTER or not self._answers()):
                if not self._away:
                    warn("the MLflow store does not answer; runs go on, recorded in their folders")
                self._away = True
                return False
            warn(f"the MLflow store refuses to record {directory}: {told(error)}")
        self._attempts.pop(directory, None)
        if self._away:
            warn("the MLflow store answers again")
        self._away = False
        return True

    def _answers(self) -> bool:
        try:
            check_reachable(self.mirror.reader.uri)
        except RequestError:
            return False
        return True


def is_outage(error: Exception) -> bool:
    """Whether the error may pass by itself: no answer, a failing server, a locked database."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, MlflowException):
        passing = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        return error.error_code in passing
    return isinstance(error, (RequestException, DBAPIError, ConnectionError, TimeoutError))


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
