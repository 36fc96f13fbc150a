"""Who hears of the runs that a command starts: the terminal, and the mirror in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbnn.data.progress import told_if_long
from tune.report.console import SweepDisplay, say
from tune.report.diagnostics import draw_diagnostics
from tune.run.folder import RunFolder
from tune.run.journal import numbers
from tune.run.listener import Listener, Listeners
from tune.tracking.mirror import Mirror
from tune.tracking.sync import MirrorThread


class DiagnosticsPicture(Listener):
    """Draws a run's diagnostics into its folder when it has ended."""

    def run_ended(self, run: RunFolder) -> None:
        draw_diagnostics(run.directory)


class EventFiles(Listener):
    """Writes a run's metrics by epoch for TensorBoard, into the run's folder."""

    def __init__(self) -> None:
        self.writers: dict[Path, Any] = {}

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        if run.directory not in self.writers:
            self.writers[run.directory] = SummaryWriter(str(run.directory))
        for name, value in numbers(metrics).items():
            self.writers[run.directory].add_scalar(name, value, metrics["epoch"])
        self.writers[run.directory].flush()

    def run_ended(self, run: RunFolder) -> None:
        if writer := self.writers.pop(run.directory, None):
            writer.close()


@contextmanager
def watched(store: str, *, tensorboard: bool = False) -> Iterator[tuple[Listener, Mirror]]:
    """(what hears of a sweep or a run, the mirror in the store at that URI, "" for the default).

    At its end the store has everything, or it was said that it has not. RequestError where the
    store does not answer at the beginning.
    """
    mirror = Mirror.open(store, say=say)
    thread = MirrorThread(mirror)
    listeners: list[Listener] = [SweepDisplay(), DiagnosticsPicture(), thread]
    if tensorboard:
        listeners.append(EventFiles())
    try:
        yield Listeners(*listeners), mirror
    finally:
        with told_if_long("recording the end in MLflow"):
            thread.close()
