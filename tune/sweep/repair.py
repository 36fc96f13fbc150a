"""Brings a sweep's study and its MLflow runs to one truth after its process died: what is wrong,
and what puts it right.

The study says how a trial ended, the trial's journal what it reported; MLflow is made to say the
same. A trial that the study holds as running, though no process runs it, waits from then on to be
taken up again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from tune.run.journal import JOURNAL, read_rows
from tune.sweep.callback import STATUS, RecordTrials
from tune.sweep.searcher import marks
from tune.sweep.standing import STATES
from tune.sweep.study import BUSY_S, CAUSE, VALUES, History, last_epoch
from tune.tracking.mirror import Tracker


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in words, and what puts it right."""

    text: str
    fix: Callable[[], object]


def runs_by_number(
    tracker: Tracker, sweep: str, parent: str, kind: str = "trial"
) -> dict[int, Run]:
    """The MLflow runs of a sweep's trials, or of its confirmation runs, by number; the first where
    there are several.
    """
    tag = "rbnn.trial" if kind == "trial" else "rbnn.confirm"
    found: dict[int, Run] = {}
    for run in tracker.children(parent, kind):
        if run.data.tags.get("rbnn.sweep") == sweep and tag in run.data.tags:
            found.setdefault(int(run.data.tags[tag]), run)
    return found


def examine(history: History, runs: dict[int, Run], recorder: RecordTrials) -> list[Finding]:
    """What is wrong with the trials of a study that no process works on; nothing is changed before
    a finding's `fix`.
    """
    noun = recorder.board.noun
    findings = []
    for trial in history.trials():
        if VALUES not in trial.user_attrs:
            if trial.state == TrialState.RUNNING:
                findings.append(
                    Finding(
                        f"{noun} {trial.number} was cut off while proposed",
                        _interrupt(history, trial, recorder),
                    )
                )
            continue
        run = runs.get(trial.number)
        if trial.state == TrialState.RUNNING:
            text = f"{noun} {trial.number} is running in the study, and no process runs it"
            findings.append(Finding(text, _interrupt(history, trial, recorder)))
        begun = trial.state.is_finished() or last_epoch(trial) > 0
        if run is None and begun:
            findings.append(
                Finding(f"{noun} {trial.number} has no MLflow run", _settle(trial, recorder))
            )
        elif run is not None and (wrong := _wrong_status(trial, run)):
            text = (
                f"{noun} {trial.number} is {STATES[trial.state]}, and its MLflow run "
                f"{run.info.run_id[:8]} {wrong}"
            )
            findings.append(Finding(text, _settle(trial, recorder)))
    return findings


def _wrong_status(trial: FrozenTrial, run: Run) -> str:
    """How a run's status contradicts its trial; "" where it does not."""
    if trial.state.is_finished():
        wanted = STATUS[STATES[trial.state]]
        return "" if run.info.status == wanted else f"is {run.info.status}, not {wanted}"
    return "is RUNNING" if run.info.status == "RUNNING" else ""


def _interrupt(
    history: History, trial: FrozenTrial, recorder: RecordTrials
) -> Callable[[], object]:
    """Lets a trial wait; the time of a session that was killed is what its epochs since
    then say.
    """

    def fix() -> None:
        journal = read_rows(recorder.folder_of(trial.number) / JOURNAL)
        spent = sum(row.get("time/epoch_s", 0.0) for row in journal)
        history.tag(trial.number, BUSY_S, max(spent, trial.user_attrs.get(BUSY_S, 0.0)))
        history.interrupt(trial.number)

    return fix


def _settle(trial: FrozenTrial, recorder: RecordTrials) -> Callable[[], object]:
    """Makes the trial's run tell what the study and the journal tell, and ends it."""

    def fix() -> None:
        config = {
            "number": trial.number,
            "overrides": trial.user_attrs[VALUES],
            "epochs": last_epoch(trial),
            **marks(trial),
        }
        tests = {
            name: value for name, value in trial.user_attrs.items() if name.startswith("test/")
        }
        row = recorder.start({**config, "tests": tests})
        row.epochs = last_epoch(trial)
        ended = trial.state.is_finished()
        recorder.end(
            row,
            STATES[trial.state] if ended else "killed",
            trial.user_attrs.get(CAUSE, "") if ended else "",
        )

    return fix
