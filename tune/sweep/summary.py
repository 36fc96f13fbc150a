"""How a sweep stands, for people and as JSON: read from its folder and its study alone, while it
runs elsewhere or after.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rbnn.errors import RequestError
from tune.sweep.confirm import SUFFIX, confirmation_table, num_confirming, settings_of
from tune.sweep.folder import SweepFolder, SweepRecord, sweep_folders
from tune.sweep.standing import rows_of
from tune.sweep.study import BUSY_S, Study, last_epoch
from tune.sweep.table import TrialTable
from tune.uris import shown


@dataclass
class SweepSummary:
    """A sweep as it is now. busy_s: seconds that its trials, of the search and of the confirmation,
    have held their places.

    num_to_confirm: confirmation runs begun or lined up, 0 before the search has ended;
    epochs_confirmed: theirs so far.
    """

    folder: SweepFolder
    record: SweepRecord
    state: str
    board: TrialTable
    busy_s: float = 0.0
    used_s: float = 0.0
    num_confirmed: int = 0
    num_to_confirm: int = 0
    epochs_confirmed: int = 0
    confirmation: list[str] = field(default_factory=list)

    @property
    def finish(self) -> float | None:
        """When it will have ended, its confirmation included, as seconds since 1970; None where
        that cannot be said.
        """
        record, board = self.record, self.board
        if self.state != "running":
            return None
        planned = num_confirming(self.folder.file.confirm_top, record.confirm_seeds, record.trials)
        confirming = max(
            (self.num_to_confirm or planned) * board.num_epochs - self.epochs_confirmed, 0
        )
        done = sum(row.epochs for row in board.rows.values()) + self.epochs_confirmed
        left = None if record.budget_s is None else record.budget_s - self.used_s
        seconds = board.seconds_to_come(done, self.used_s, left, confirming)
        return None if seconds is None else time.time() + seconds

    def counts(self) -> dict[str, int]:
        """Trials by state; `interrupted` ones wait to be taken up again."""
        names = {"killed": "interrupted"}
        counts = dict.fromkeys(("complete", "pruned", "failed", "running", "interrupted"), 0)
        for row in self.board.rows.values():
            counts[names.get(row.state, row.state)] += 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        best, record = self.board.best, self.record
        rows = [
            {**vars(row), "state": "interrupted" if row.state == "killed" else row.state}
            for row in self.board.ranked
        ]
        return {
            "sweep": record.name,
            "state": self.state,
            "cause": record.cause,
            "folder": str(self.folder.directory.resolve()),
            "store": shown(record.store),
            "parent_run": self.folder.run_id,
            "process": record.process,
            "trials": {"budget": record.trials, **self.counts()},
            "epochs_done": sum(row.epochs for row in self.board.rows.values()),
            "best": {
                "trial": best.number,
                "val/top1": best.top1,
                "run": best.run_id,
                "values": best.values,
            }
            if best
            else None,
            "cpu_hours": self.busy_s * record.cpus / 3600,
            "gpu_hours": self.busy_s * record.gpus / 3600,
            "hours": self.used_s / 3600,
            "began": _iso(record.began),
            "ended": _iso(record.ended),
            "finish": _iso(self.finish),
            "confirmation_runs": {"done": self.num_confirmed, "of": self.num_to_confirm},
            "rows": rows,
        }


def look_at(folder: SweepFolder, history: Study | None = None) -> SweepSummary:
    """How the sweep in a folder stands; changes nothing. history: its study, where it was read
    already.
    """
    record, state, used_s = folder.record, folder.state, folder.used_s
    storage = folder.storage_url(record)
    history = history or Study.existing(storage, record.name)
    board = TrialTable(
        record.name,
        record.trials,
        int(record.recipe["epochs"]),
        rows_of(history, folder.directory) if history else {},
    )
    standing = SweepSummary(folder, record, state, board, used_s=used_s)
    standing.busy_s = busy_s(history.trials(), state == "running") if history else 0.0
    if confirmation := Study.existing(storage, record.name + SUFFIX):
        trials = confirmation.trials()
        standing.busy_s += busy_s(trials, state == "running")
        standing.num_to_confirm = len(trials)
        standing.epochs_confirmed = sum(map(last_epoch, trials))
        standing.num_confirmed = sum(trial.state.is_finished() for trial in trials)
        if settings := settings_of(confirmation):
            standing.confirmation, board.confirmed = (
                confirmation_table(settings),
                settings[0].number,
            )
    return standing


def busy_s(trials: list[FrozenTrial], running: bool) -> float:
    """Seconds that trials have held their places, those that run now among them where a process
    runs them.
    """
    total = 0.0
    for trial in trials:
        total += trial.user_attrs.get(BUSY_S, 0.0)
        if running and trial.state == TrialState.RUNNING and trial.datetime_start:
            total += (datetime.now() - trial.datetime_start).total_seconds()
    return total


def look_at_all(results_dir: str) -> list[dict[str, Any]]:
    """All sweeps under a results folder as plain values, without their trials; `error` where a
    storage does not answer.
    """
    found = []
    for folder in sweep_folders(results_dir):
        try:
            found.append(
                {name: value for name, value in look_at(folder).to_dict().items() if name != "rows"}
            )
        except RequestError as error:
            found.append({"sweep": folder.record.name, "state": folder.state, "error": str(error)})
    return found


def _iso(seconds: float | None) -> str | None:
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    )
