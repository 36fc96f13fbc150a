"""How a sweep stands, from its folder and its study alone: what `rbnn status` shows and a resumed
sweep begins with.
"""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from tune.run.folder import RunFolder
from tune.sweep.confirm import SUFFIX
from tune.sweep.folder import CONFIRM, TRIALS, trial_directory
from tune.sweep.study import CAUSE, RUN, VALUES, Study, last_epoch
from tune.sweep.table import State, TrialRow, TrialTable

STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "killed",
}


def row_of(trial: FrozenTrial, run: RunFolder) -> TrialRow:
    """A trial of the study as a row; one that waits to be taken up again was killed."""
    epochs, scores = last_epoch(trial), trial.intermediate_values
    state = STATES[trial.state]
    return TrialRow(
        trial.number,
        trial.user_attrs[VALUES],
        run.mirrored.get("run") or trial.user_attrs.get(RUN, ""),
        state,
        epochs,
        scores.get(epochs),
        max(scores.values(), default=None),
        trial.user_attrs.get(CAUSE, "") if state == "failed" else "",
        max(scores, key=scores.__getitem__, default=0),
    )


def rows_of(history: Study, sweep: Path) -> dict[int, TrialRow]:
    """The trials of a study that have begun, by number; sweep: the folder with their runs."""
    kind = CONFIRM if history.name.endswith(SUFFIX) else TRIALS
    rows = {}
    for trial in history.trials():
        if VALUES in trial.user_attrs:
            run = RunFolder(trial_directory(sweep, trial.number, kind))
            rows[trial.number] = row_of(trial, run)
    return rows


def board_of(
    history: Study,
    sweep: Path,
    num_trials: int | None,
    num_epochs: int,
    *,
    noun: str = "trial",
) -> TrialTable:
    """The board that a process goes on with: what has ended stays, what was cut off is not there
    until it is taken up.
    """
    rows = rows_of(history, sweep)
    ended = {n: row for n, row in rows.items() if row.state not in ("running", "killed")}
    before = sum(row.epochs for row in ended.values())
    return TrialTable(history.name, num_trials, num_epochs, ended, epochs_before=before, noun=noun)
