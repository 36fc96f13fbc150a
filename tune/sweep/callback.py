"""What the sweep's own process does when Ray Tune tells it something: rows of the table, run
folders, word to the listeners.

A trial has one folder, and one id, for its whole life, whatever died in between.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.tune

from tune.run.failure import failure_cause
from tune.run.folder import RunFolder, RunInfo, State
from tune.run.journal import Journal, epoch_metrics
from tune.run.listener import Listener
from tune.run.remote import CheckpointStore
from tune.sweep.folder import trial_directory
from tune.sweep.plan import SweepPlan
from tune.sweep.stop import StopSignal
from tune.sweep.study import RUN, Study
from tune.sweep.table import METRIC, TrialRow, TrialTable
from tune.sweep.trial import TrialSpec, trial_store, write_scores

GIVE_UP_AFTER = 3  # first trials that all fail for the same cause


class SweepCallback(ray.tune.Callback):
    """Keeps the table and the folders of a phase's trials true, and tells `listener` of them.

    Sets `stop` when the first GIVE_UP_AFTER trials (or all, where there are fewer) fail for the
    same cause.
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

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.start(TrialSpec.of(trial.config))

    def start(self, spec: TrialSpec) -> TrialRow:
        """The row of a trial that runs from now on, and its folder: the one it has, or a new
        one.
        """
        row = self.table.rows.get(spec.number)
        if row and row.state == "running":
            return row
        self._specs[spec.number] = spec
        row = self.table.rows[spec.number] = TrialRow(spec.number, spec.values)
        run = begin_run(self.plan, spec)
        row.run_id = run.run_id
        self.study.tag(spec.number, RUN, run.info.id)
        self._journals[spec.number] = Journal(fetched(self.plan, spec))
        for metrics in self._journals[spec.number].rows[: spec.epochs_done]:
            self._note(row, metrics)
        self.listener.run_began(run)
        return row

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        spec = TrialSpec.of(trial.config)
        row, journal = self.table.rows[spec.number], self._journals[spec.number]
        if METRIC not in result or result["epoch"] <= row.epochs:
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

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = TrialSpec.of(trial.config)
        row = self.table.rows[spec.number]
        complete = row.epochs >= self.plan.recipe.epochs
        self._end(spec, "complete" if complete else "pruned")
        best = self.table.best
        if not spec.test and complete and best and best.top1 is not None:
            sweep = RunFolder(self.plan.directory)
            sweep.add_points(spec.number, {"sweep/best_top1": best.top1})
            self.listener.sweep_changed(sweep)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(TrialSpec.of(trial.config), "failed", failure_cause(trial))
        self._give_up_in_vain()

    def end_unfinished(self) -> None:
        """Record every trial that Ray Tune never said the end of, as it was stopped with the sweep,
        as killed.
        """
        for row in self.table.running:
            self._end(self._specs[row.number], "killed")

    def _end(self, spec: TrialSpec, state: State, cause: str = "") -> None:
        """Record how a trial ended."""
        row = self.table.rows[spec.number]
        run = RunFolder(fetched(self.plan, spec))
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
    info = RunInfo(
        kind="confirm" if spec.test else "trial",
        name=run_name(plan, spec),
        parent=sweep.id,
        tags=tags_of(plan, spec) | {"rbnn.sweep_id": sweep.id},
        values=spec.values,
        data=asdict(plan.data),
    )
    return RunFolder.begin(run.directory, info, plan.recipe.replace(**spec.values))


def run_name(plan: SweepPlan, spec: TrialSpec) -> str:
    """What people call a trial's run."""
    if spec.test:
        return f"confirm {spec.setting}, seed {spec.values['seed']}, of {plan.name}"
    return f"trial {spec.number} of {plan.name}"


def tags_of(plan: SweepPlan, spec: TrialSpec) -> dict[str, str]:
    """The tags by which a trial's run is found."""
    tags = {"rbnn.sweep": plan.name, "rbnn.recipe": plan.file.name}
    if spec.test:
        return tags | {"rbnn.confirm": str(spec.number), "rbnn.confirms": str(spec.setting)}
    return tags | {"rbnn.trial": str(spec.number)}


def fetched(plan: SweepPlan, spec: TrialSpec) -> Path:
    """The trial's folder here; what an object store holds of it is fetched."""
    directory = trial_directory(plan.directory, spec.number, spec.kind)
    if address := trial_store(plan.elsewhere.get("store", ""), spec.number, spec.kind):
        CheckpointStore(address).fetch(directory)
    return directory
