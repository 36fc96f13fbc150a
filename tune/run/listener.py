"""Who hears of runs: the terminal, the mirror in MLflow, whatever else one adds.

Runs and sweeps tell their listeners what happened after it is in the run's folder. They do not know
who listens, and nothing that a listener does or fails to do changes a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    def sweep_changed(self, sweep: RunFolder) -> None:
        """The sweep's own record has changed: a new best, its end."""

    def trials_began(self, table: Any) -> None:
        """Trials are about to run; `table` is kept true while they do (tune.sweep.table)."""

    def trials_ended(self) -> None:
        """None of those trials runs any more."""

    def said(self, text: str) -> None:
        """A line for people."""


class Listeners(Listener):
    """Several listeners as one, told in their order."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def run_began(self, run: RunFolder) -> None:
        for each in self.listeners:
            each.run_began(run)

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        for each in self.listeners:
            each.epoch_ended(run, metrics)

    def run_ended(self, run: RunFolder) -> None:
        for each in self.listeners:
            each.run_ended(run)

    def sweep_changed(self, sweep: RunFolder) -> None:
        for each in self.listeners:
            each.sweep_changed(sweep)

    def trials_began(self, table: Any) -> None:
        for each in self.listeners:
            each.trials_began(table)

    def trials_ended(self) -> None:
        for each in self.listeners:
            each.trials_ended()

    def said(self, text: str) -> None:
        for each in self.listeners:
            each.said(text)
