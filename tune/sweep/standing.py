"""How a sweep stands, from its folder and its study alone: what `rbnn status` shows and a resumed
sweep begins with.
"""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import FrozenTrial, TrialState

from tune.sweep.study import CAUSE, RUN, VALUES, History, last_epoch
from tune.sweep.table import Board, Row, State

STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "killed",
}


def row_of(trial: FrozenTrial, run_id: str = "") -> Row:
    """A trial of the study as a row; one that waits to be taken up again was killed."""
    epochs, scores = last_epoch(trial), trial.intermediate_values
    state = STATES[trial.state]
    return Row(
        trial.number,
        trial.user_attrs[VALUES],
        run_id or trial.user_attrs.get(RUN, ""),
        state,
        epochs,
        scores.get(epochs),
        max(scores.values(), default=None),
        trial.user_attrs.get(CAUSE, "") if state == "failed" else "",
    )


def rows_of(history: History, runs: Mapping[int, str] | None = None) -> dict[int, Row]:
    """The trials of a study that have begun, by number; runs: their MLflow runs."""
    begun = (trial for trial in history.trials() if VALUES in trial.user_attrs)
    return {trial.number: row_of(trial, (runs or {}).get(trial.number, "")) for trial in begun}


def board_of(
    history: History,
    num_trials: int | None,
    num_epochs: int,
    runs: Mapping[int, str] | None = None,
    *,
    noun: str = "trial",
) -> Board:
    """The board that a process goes on with: what has ended stays, what was cut off is not there
    until it is taken up.
    """
    ended = {
        number: row
        for number, row in rows_of(history, runs).items()
        if row.state not in ("running", "killed")
    }
    before = sum(row.epochs for row in ended.values())
    return Board(history.name, num_trials, num_epochs, ended, epochs_before=before, noun=noun)
