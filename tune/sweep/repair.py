"""Brings a sweep's study and its trials' folders to one truth after its process died.

The study says what was decided of a trial, its folder what it did.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from rbnn.errors import RequestError
from tune.cluster.daemons import ray_processes
from tune.run.folder import RunFolder
from tune.sweep.callback import begin_run
from tune.sweep.folder import CONFIRM, SWEEP_FILE, TRIALS, SweepFolder, trial_directory
from tune.sweep.plan import SweepPlan, recorded_plan
from tune.sweep.searcher import spec_of
from tune.sweep.study import BUSY_S, CAUSE, RUN, SUFFIX, VALUES, Study, last_epoch
from tune.sweep.table import METRIC, STATES


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in words, and what puts it right."""

    text: str
    fix: Callable[[], object]


def examine(study: Study, plan: SweepPlan) -> list[Finding]:
    """What is wrong with a study that no process works on; a finding's `fix` mends it."""
    findings, trials = [], study.trials()
    noun = "confirmation run" if study.kind == CONFIRM else "trial"
    for trial in trials:
        subject = f"{noun} {trial.number}"
        run = RunFolder(trial_directory(plan.directory, trial.number, study.kind))
        if run.exists and run.info.values != trial.user_attrs.get(VALUES):
            text = f"{subject} tries other values than the run in its folder"
            findings.append(Finding(text, partial(_set_aside, run)))
        if trial.state == TrialState.RUNNING:
            text = f"{subject} is running in the study, and no process runs it"
            findings.append(Finding(text, partial(_interrupt, study, trial, run)))
        elif wrong := _contradiction(trial, run):
            text = f"{subject} is {STATES[trial.state]}, and {wrong}"
            findings.append(Finding(text, partial(_settle, trial, run, plan)))
    # Runs beyond the last trial that the study holds, as after a backup of it was restored.
    for folder in sorted((plan.directory / study.kind).glob("[0-9]*[0-9]")):
        run = RunFolder(folder)
        if run.exists and int(folder.name) >= len(trials):
            text = f"{noun} {int(folder.name)} ran, and the study does not know it"
            findings.append(Finding(text, partial(_take_over, study, run, plan)))
    return findings


def _contradiction(trial: FrozenTrial, run: RunFolder) -> str:
    """How a trial's folder contradicts the study; "" where it does not."""
    if not run.exists:
        begun = trial.state.is_finished() or last_epoch(trial) > 0
        return "its folder holds no run" if begun and VALUES in trial.user_attrs else ""
    state = run.info.state
    return f"its folder says {state}" if state != STATES[trial.state] else ""


def _set_aside(run: RunFolder) -> None:
    """Give another setting's run a folder of its own, so that nobody goes on from it."""
    run.directory.rename(run.directory.with_name(f"other-{run.info.id[:8]}"))


def _interrupt(study: Study, trial: FrozenTrial, run: RunFolder) -> None:
    """Let a trial wait; the time of a session that was killed is what its epochs since then say."""
    spent = sum(row.get("time/epoch_s", 0.0) for row in run.epochs)
    study.tag(trial.number, BUSY_S, max(spent, trial.user_attrs.get(BUSY_S, 0.0)))
    study.interrupt(trial.number)
    if run.exists:
        run.end("killed")


def _settle(trial: FrozenTrial, run: RunFolder, plan: SweepPlan) -> None:
    """Make the trial's folder say what the study says."""
    found = run if run.exists else begin_run(plan, spec_of(trial))
    found.end(STATES[trial.state], trial.user_attrs.get(CAUSE, ""))


def _take_over(study: Study, run: RunFolder, plan: SweepPlan) -> None:
    """Tell the study of a trial as its folder has it; one that did not end waits."""
    info, scores, space = run.info, {}, plan.config.space
    for row in run.epochs:
        scores[row["epoch"] + 1] = row[METRIC]
    ended = {word: state for state, word in STATES.items() if state.is_finished()}
    state = ended.get(info.state, TrialState.WAITING)
    given: dict[str, Any] = {"user_attrs": {VALUES: info.values, RUN: info.id}}
    if study.kind == CONFIRM:
        given["user_attrs"] |= {"setting": int(info.tags["rbnn.confirms"]), "test": True}
    else:
        given |= {"params": space.raw(info.values), "distributions": space.distributions}
    if scores and state in (TrialState.COMPLETE, TrialState.PRUNED):
        given["value"] = scores[max(scores)]
    study.study.add_trial(create_trial(state=state, intermediate_values=scores, **given))


def check_study(folder: SweepFolder) -> None:
    """RequestError, one line, where a sweep cannot go on for want of its study."""
    record = folder.record
    study = Study.existing(folder.storage_url(record), record.name)
    if study:
        study.belongs_to(record.id)
    elif (folder.directory / TRIALS).is_dir():
        raise RequestError(
            f"the Optuna study of sweep '{record.name}' is gone, and with it what the scores of "
            f"its trials belong to; restore it from a backup, or begin anew: rbnn sweep "
            f"{folder.directory / SWEEP_FILE}"
        )


def examine_folder(folder: SweepFolder) -> list[Finding]:
    """What is wrong with a sweep that no process conducts: half-written files, a request to stop, a
    Ray that outlived it, its studies and its record; RequestError where its study is gone.
    """
    record, findings = folder.record, []
    for file in sorted(folder.directory.rglob("*.partial")):
        text = f"{file.relative_to(folder.directory)} was never finished"
        findings.append(Finding(text, partial(file.unlink, missing_ok=True)))
    if folder.stop_file.exists():
        remove = partial(folder.stop_file.unlink, missing_ok=True)
        findings.append(Finding("a request to stop is left", remove))
    for pid, name in ray_processes(record.ray):
        text = f"{name} (process {pid}) of its Ray still runs"
        findings.append(Finding(text, partial(os.kill, pid, signal.SIGKILL)))
    check_study(folder)
    for name in (record.name, record.name + SUFFIX):
        if study := Study.existing(folder.storage_url(record), name):
            findings += examine(study, recorded_plan(folder))
    if record.state == "running":
        text = f"its process {record.process.get('pid', '')} died without noting an end"
        findings.append(Finding(text, partial(folder.end, "stopped", "its process died")))
    return findings
