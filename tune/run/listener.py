"""Who hears of runs: the terminal, the mirror in MLflow, whatever else one adds.

Runs and sweeps tell their listeners what happened after it is in the run's folder. They do not know
who listens, and nothing that a listener does or fails to do changes a result.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from rbnn.errors import one_line

if TYPE_CHECKING:
    from tune.run.folder import RunFolder


class Listener:
    """Hears nothing; override what is of interest. Called in the sweep's or run's own process."""

    def run_began(self, run: RunFolder) -> None:
        """A run begins, or goes on after it was cut off."""

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        """An epoch (0-based `metrics["epoch"]`) is in the run's metrics.jsonl."""

    def run_ended(self, run: RunFolder) -> None:
        """The run has ended, with the state and cause of its `info`."""

    def sweep_changed(self, run: RunFolder) -> None:
        """The record of a sweep itself has changed: a new best, its end."""

    def trials_began(self, table: Any) -> None:
        """Trials are about to run; `table` is kept true while they do (tune.sweep.table)."""

    def trials_ended(self) -> None:
        """None of those trials runs any more."""

    def said(self, text: str) -> None:
        """A line for people."""


class Listeners(Listener):
    """Several listeners as one, told in their order. One that fails is told nothing more, and why
    is said: it cannot end what it listens to.
    """

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def _tell(self, event: str, *given: Any) -> None:
        for each in tuple(self.listeners):
            try:
                getattr(each, event)(*given)
            # A full disk, a closed terminal, a mistake of ours: none is worth the runs.
            except Exception as error:
                self.listeners.remove(each)
                warn(f"{type(each).__name__} hears no more: {one_line(error)}")


for event in [name for name in vars(Listener) if not name.startswith("_")]:
    setattr(Listeners, event, partialmethod(Listeners._tell, event))


def warn(text: str) -> None:
    """A line for people, beside what a command prints; where nobody can read it, nothing."""
    with suppress(OSError, ValueError):
        print(f"rbnn: {text}", file=sys.stderr, flush=True)
