"""What a sweep's process does when Ray Tune tells it something: table, run folders, listeners.

A trial has one folder, and one id, for its whole life, whatever died in between.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.tune

from tune.run.failure import failure_cause
from tune.run.folder import RunFolder, RunInfo, State
from tune.run.journal import Journal, epoch_metrics
from tune.run.listener import Listener
from tune.run.remote import fetch, store_of
from tune.sweep.folder import trial_directory
from tune.sweep.plan import SweepPlan
from tune.sweep.stop import StopSignal, breaking
from tune.sweep.study import RUN, Study
from tune.sweep.table import METRIC, STATES, TrialRow, TrialTable
from tune.sweep.trial import TrialSpec, write_scores

GIVE_UP_AFTER = 3  # first trials that all fail for the same cause


class SweepCallback(ray.tune.Callback):
    """Keeps the table and the folders of a phase's trials true, and tells `listener` of them. Sets
    `stop` when the first GIVE_UP_AFTER trials, or all of fewer, fail for the same cause.
    """

    def __init__(
        self, plan: SweepPlan, table: TrialTable, study: Study, stop: StopSignal, listener: Listener
    ) -> None:
        self.plan, self.table, self.study = plan, table, study
        self.stop, self.listener = stop, listener
        self._specs: dict[int, TrialSpec] = {}
        self._journals: dict[int, Journal] = {}
        self._ended: list[TrialRow] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @breaking
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.start(TrialSpec.of(trial.config))

    def start(self, spec: TrialSpec) -> None:
        """A trial runs from now on, in the folder that it has or in a new one."""
        row = self.table.rows.get(spec.number)
        if row and row.state == "running":
            return
        run = begin_run(self.plan, spec)
        row = TrialRow(spec.number, spec.values, run.run_id)
        self._specs[spec.number], self.table.rows[spec.number] = spec, row
        self.study.tag(spec.number, RUN, run.info.id)
        journal = self._journals[spec.number] = Journal(fetched(self.plan, spec))
        for metrics in journal.rows[: spec.epochs_done]:
            self._note(row, metrics)
        self.listener.run_began(run)

    @breaking
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        row, journal = self.table.rows[number], self._journals[number]
        if METRIC not in result or result["epoch"] <= row.epochs or self.study.has_ended(number):
            return
        metrics = {**epoch_metrics(result), "epoch": result["epoch"] - 1}
        scores = {name: metrics.pop(name) for name in list(metrics) if name.startswith("test/")}
        # What a trial on another node reports is in its own folder; this one is the record.
        journal.append(metrics)
        run = RunFolder(journal.file.parent)
        if scores:
            write_scores(run.directory, scores)
        self._note(row, metrics)
        self.listener.epoch_ended(run, metrics)

    @breaking
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = TrialSpec.of(trial.config)
        row = self.table.rows[spec.number]
        state: State = "complete" if row.epochs >= self.plan.recipe.epochs else "pruned"
        told = self.study.trials()[spec.number]
        if told.state.is_finished() and STATES[told.state] != state:  # by somebody else's hand
            state = STATES[told.state]
            self._journals[spec.number].cut(row.epochs)
        self._end(spec, state)
        best = self.table.best
        if not spec.test and state == "complete" and best and best.top1 is not None:
            sweep = RunFolder(self.plan.directory)
            sweep.add_points(spec.number, {"sweep/best_top1": best.top1})
            self.listener.sweep_changed(sweep)

    @breaking
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        failure_cause(trial)  # nothing is tried again on a disk that takes no more

    @breaking
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(TrialSpec.of(trial.config), "failed", failure_cause(trial))
        self._give_up_in_vain()

    def end_unfinished(self) -> None:
        """Record as killed, where it can be, the trials that Ray Tune never said the end of."""
        for row in self.table.running:
            with suppress(OSError):
                self._end(self._specs[row.number], "killed")

    def _end(self, spec: TrialSpec, state: State, cause: str = "") -> None:
        """Record how a trial ended."""
        row, run = self.table.rows[spec.number], RunFolder(fetched(self.plan, spec))
        run.end(state, cause)
        row.state, row.cause = state, run.info.cause
        self._ended.append(row)
        self.listener.run_ended(run)

    def _note(self, row: TrialRow, metrics: dict[str, Any]) -> None:
        row.epochs, row.top1 = metrics["epoch"] + 1, metrics[METRIC]
        if row.best_top1 is None or row.top1 > row.best_top1:
            row.best_top1, row.best_epoch = row.top1, row.epochs

    def _give_up_in_vain(self) -> None:
        wanted = min(GIVE_UP_AFTER, self.table.num_trials or GIVE_UP_AFTER)
        if len(self._ended) != wanted or wanted == 1:
            return
        kinds = {re.sub(r"[\d.e+-]+", "#", row.cause) for row in self._ended}
        if len(kinds) == 1 and all(row.state == "failed" for row in self._ended):
            self.stop.because(f"the first {wanted} trials all failed: {self._ended[-1].cause}")


def begin_run(plan: SweepPlan, spec: TrialSpec) -> RunFolder:
    """The folder of a trial, recorded as running: the one that it has, or a new one."""
    run = RunFolder(trial_directory(plan.directory, spec.number, spec.kind))
    if run.exists:
        run.resume()
        return run
    sweep = RunFolder(plan.directory).info
    name, number = f"trial {spec.number}", {"rbnn.trial": str(spec.number)}
    if spec.test:
        name = f"confirm {spec.setting}, seed {spec.values['seed']}"
        number = {"rbnn.confirm": str(spec.number), "rbnn.confirms": str(spec.setting)}
    sweeps = {"rbnn.sweep": plan.name, "rbnn.sweep_id": sweep.id, "rbnn.recipe": plan.config.name}
    info = RunInfo(
        kind="confirm" if spec.test else "trial",
        name=name,
        parent=sweep.id,
        tags=sweeps | number,
        values=spec.values,
        data=asdict(plan.data),
    )
    return RunFolder.begin(run.directory, info, plan.recipe.replace(**spec.values))


def fetched(plan: SweepPlan, spec: TrialSpec) -> Path:
    """The trial's folder here; what an object store holds of it is fetched."""
    directory = trial_directory(plan.directory, spec.number, spec.kind)
    fetch(store_of(plan.store, spec.kind, directory.name), directory)
    return directory
