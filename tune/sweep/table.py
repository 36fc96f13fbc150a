"""What is known of a sweep's trials: one row a trial, the order of merit, the finish time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune.run.folder import RunFolder, State
from tune.sweep.folder import trial_directory
from tune.sweep.study import CAUSE, RUN, VALUES, Study, last_epoch

METRIC = "val/top1"
BASELINE = 0  # the trial that runs the recipe's own setting
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "killed",  # waits to be taken up again
}


@dataclass
class TrialRow:
    """A trial: its values, epochs completed, val/top1 (percent) of the last and the best epoch."""

    number: int
    values: dict[str, Any]
    run_id: str = ""
    state: State = "running"
    epochs: int = 0
    top1: float | None = None
    best_top1: float | None = None
    cause: str = ""
    best_epoch: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The searched options: its values but for the length of a schedule of its own."""
        return {name: value for name, value in self.values.items() if name != "epochs"}

    @property
    def shown_state(self) -> str:
        """Its state for people: a short schedule that ran to its end is pruned to Optuna alone, and
        a killed trial waits to be taken up again.
        """
        if self.state == "pruned" and self.epochs == self.values.get("epochs"):
            return "short"
        return "interrupted" if self.state == "killed" else self.state

    @classmethod
    def of(cls, trial: FrozenTrial, run: RunFolder) -> TrialRow:
        """A trial of the study, which runs in that folder."""
        given, scores, epochs = trial.user_attrs, trial.intermediate_values, last_epoch(trial)
        return cls(
            number=trial.number,
            values=given[VALUES],
            run_id=run.mirrored.get("run") or given.get(RUN, ""),
            state=STATES[trial.state],
            epochs=epochs,
            top1=scores.get(epochs),
            best_top1=max(scores.values(), default=None),
            best_epoch=max(scores, key=lambda epoch: scores[epoch], default=0),
            cause=given.get(CAUSE, "") if trial.state == TrialState.FAIL else "",
        )


def ranked(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Complete trials by their last val/top1, then the others by theirs, failed ones last."""
    return sorted(rows, key=lambda row: (row.state != "complete", -(row.top1 or -1.0), row.number))


@dataclass
class TrialTable:
    """All trials of a sweep so far. num_trials: how many there will be, None without end;
    num_epochs: of a full trial.

    epochs_before: those done before `began`, by an earlier process, less those of other trials
    since. epochs_after: of the confirmation that follows, about. budget_s: time from `began` after
    which no trial goes on, or None. noun: what a row is called. confirmed: the trial that fresh
    seeds hold for the best, None as long as nothing is confirmed.
    """

    name: str
    num_trials: int | None
    num_epochs: int
    rows: dict[int, TrialRow] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    epochs_before: int = 0
    epochs_after: int = 0
    budget_s: float | None = None
    noun: str = "trial"
    confirmed: int | None = None

    @property
    def running(self) -> list[TrialRow]:
        return [row for row in self.rows.values() if row.state == "running"]

    @property
    def ended(self) -> list[TrialRow]:
        return [row for row in self.rows.values() if row.state != "running"]

    @property
    def ranked(self) -> list[TrialRow]:
        return ranked(self.rows.values())

    @property
    def epochs(self) -> int:
        """Epochs of all trials so far."""
        return sum(row.epochs for row in self.rows.values())

    @property
    def best(self) -> TrialRow | None:
        """The winner: by fresh seeds, or where nothing is confirmed the best complete trial."""
        if self.confirmed is not None and self.confirmed in self.rows:
            return self.rows[self.confirmed]
        return next((row for row in self.ranked if row.state == "complete"), None)

    @property
    def best_note(self) -> str:
        """What the winner is called in a table."""
        return "best" if self.confirmed is None else "best by fresh seeds"

    @property
    def baseline(self) -> TrialRow | None:
        """Trial 0, the recipe's own values."""
        return self.rows.get(BASELINE)

    def seconds_left(self) -> float | None:
        """Expected time to the end of the sweep at the pace since `began`; None before the first
        epoch, or where there is no end.
        """
        done, spent_s = self.epochs - self.epochs_before, time.monotonic() - self.began
        if done <= 0:
            return None
        epoch_s = spent_s / done
        ends = [] if self.budget_s is None else [max(self.budget_s - spent_s, 0.0)]
        if self.num_trials is not None:
            ends.append(self.epochs_to_come(self.num_trials) * epoch_s)
        return min(ends) + self.epochs_after * epoch_s if ends else None

    def epochs_to_come(self, num_trials: int) -> float:
        """The epochs that `num_trials` trials in all still need, as long as those that ended."""
        ended = self.ended
        usual = sum(row.epochs for row in ended) / len(ended) if ended else self.num_epochs
        unfinished = sum(max(usual - row.epochs, 0) for row in self.running)
        return usual * max(num_trials - len(self.rows), 0) + unfinished


def rows_of(study: Study, sweep: Path) -> dict[int, TrialRow]:
    """The trials of a study that have begun, by number; sweep: the folder with their runs."""
    rows = {}
    for trial in study.trials():
        if VALUES in trial.user_attrs:
            run = RunFolder(trial_directory(sweep, trial.number, study.kind))
            rows[trial.number] = TrialRow.of(trial, run)
    return rows


def table_of(study: Study, sweep: Path, num_trials: int | None, num_epochs: int) -> TrialTable:
    """What a process goes on with: trials that ended; others are there when they are taken up."""
    table = TrialTable(study.name, num_trials, num_epochs)
    for number, row in rows_of(study, sweep).items():
        if row.state not in ("running", "killed"):
            table.rows[number] = row
    table.epochs_before = table.epochs
    return table


def columns(rows: Sequence[TrialRow]) -> list[str]:
    """The searched options, in the order of the sweep file."""
    return list(rows[0].options) if rows else []


def shown(value: Any) -> str:
    """A recipe value for people: three significant digits, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A percentage with two decimals, "-" for none."""
    return "-" if value is None else f"{value:.2f}"
