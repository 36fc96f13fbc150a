"""What the sweep's own process does when Ray Tune tells it something: rows on the board, runs in
MLflow. One writer.

A trial has one MLflow run for its whole life, whatever died in between: found by its number, filled
from its journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.tune

from rbnn.engine import BEST, LAST
from tune.run.diagnostics import log_diagnostics
from tune.run.failure import failure_cause
from tune.run.journal import JOURNAL, read_rows
from tune.run.remote import CheckpointStore
from tune.sweep.plan import Plan
from tune.sweep.stop import Stop
from tune.sweep.study import RUN, History
from tune.sweep.table import METRIC, Board, Row, State
from tune.sweep.trial import CONFIRM, TRIALS, trial_directory, trial_recipe, trial_store
from tune.tracking.mirror import Kind, Status, Tracker

STATUS: dict[State, Status] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "killed": "KILLED",
    "failed": "FAILED",
}
GIVE_UP_AFTER = 3  # first trials that all fail for the same cause


class RecordTrials(ray.tune.Callback):
    """Keeps `board` and the tracker's child runs of `parent` true; calls `changed(row)` after every
    change of a trial.

    runs: the runs that trials have already, by number. history: the study, to note each trial's run
    in. Sets `stop` when the first GIVE_UP_AFTER trials (or all, where there are fewer) fail for the
    same cause.
    """

    kind: Kind = "trial"
    noun = "trial"
    folder = TRIALS

    def __init__(
        self,
        plan: Plan,
        board: Board,
        tracker: Tracker,
        parent: str,
        stop: Stop,
        changed: Callable[[Row], None],
        runs: dict[int, str] | None = None,
        history: History | None = None,
    ) -> None:
        self.plan = plan
        self.board = board
        self.tracker = tracker
        self.parent = parent
        self.stop = stop
        self.changed = changed
        self.runs = runs if runs is not None else {}
        self.history = history
        self._ended: list[Row] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.start(trial.config)

    def start(self, config: dict[str, Any]) -> Row:
        """The row of a trial that runs from now on, and its run: the one it has, or a new one."""
        number = config["number"]
        row = self.board.rows.get(number)
        if row and row.state == "running" and row.run_id:
            return row
        row = self.board.rows[number] = Row(number, config["overrides"])
        if number in self.runs:
            row.run_id = self.runs[number]
            self._take_up(row)
        else:
            row.run_id = self.runs[number] = self.tracker.start_run(
                self.kind,
                self.run_name(config),
                recipe=self._recipe(row),
                parent=self.parent,
                tags={
                    "rbnn.sweep": self.plan.name,
                    "rbnn.recipe": self.plan.file.name,
                    **self.tags(config),
                },
            )
            self._log_data(row)
        if self.history:
            self.history.tag(number, RUN, row.run_id)
        self._fill(row, config.get("epochs", 0), config.get("tests", {}))
        self.changed(row)
        return row

    def run_name(self, config: dict[str, Any]) -> str:
        """The name of a trial's run."""
        return f"trial {config['number']} of {self.plan.name}"

    def tags(self, config: dict[str, Any]) -> dict[str, str]:
        """The tags that tell a trial's run from the others of the sweep."""
        return {"rbnn.trial": str(config["number"])}

    def folder_of(self, number: int) -> Path:
        """The trial's folder here; what an object store holds of it is fetched."""
        directory = trial_directory(self.plan.directory, number, self.folder)
        if address := trial_store(self.plan.elsewhere.get("store", ""), number, self.folder):
            CheckpointStore(address).fetch(directory)
        return directory

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        row = self.board.rows[trial.config["number"]]
        if METRIC not in result or result["epoch"] <= row.epochs:
            return
        self._note(row, result["epoch"], result[METRIC])
        self.tracker.log_epoch(row.run_id, epoch_metrics(result), row.epochs - 1)
        self.changed(row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = self.board.rows[trial.config["number"]]
        self.end(row, "complete" if row.epochs >= self.plan.recipe.epochs else "pruned")
        self._ended.append(row)
        best = self.board.best
        if self.kind == "trial" and row.state == "complete" and best and best.top1 is not None:
            self.tracker.log_points(self.parent, {"sweep/best_top1": best.top1}, row.number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = self.board.rows[trial.config["number"]]
        self.end(row, "failed", failure_cause(trial))
        self._ended.append(row)
        self._give_up_in_vain()

    def end_unfinished(self) -> None:
        """Record every trial that Ray Tune never said the end of, as it was stopped with the sweep,
        as killed.
        """
        for row in self.board.running:
            self.end(row, "killed")

    def end(self, row: Row, state: State, cause: str = "") -> None:
        """Record how a trial ended, with its checkpoints."""
        row.state, row.cause = state, cause
        directory = self.folder_of(row.number)
        self.tracker.log_checkpoints(row.run_id, existing([directory / LAST, directory / BEST]))
        log_diagnostics(self.tracker.log_artifact, row.run_id, directory)
        self.tracker.finish(row.run_id, STATUS[state], pruned=state == "pruned", cause=cause)
        self.changed(row)

    def _take_up(self, row: Row) -> None:
        """Go on with the run of a trial that was cut off, completing what a kill in the middle of
        its start left out.
        """
        self.tracker.resume_run(row.run_id)
        if "rbnn.data_fingerprint" not in self.tracker.client.get_run(row.run_id).data.tags:
            recipe = self._recipe(row)
            self.tracker.log_params(row.run_id, recipe.to_dict())
            self.tracker.log_text(row.run_id, recipe.to_yaml(), "recipe.yaml")
            self._log_data(row)

    def _fill(self, row: Row, epochs: int, tests: dict[str, float]) -> None:
        """Record the epochs that the trial's process reported before and nobody recorded; `tests`:
        of the last one.
        """
        for metrics in read_rows(self.folder_of(row.number) / JOURNAL)[:epochs] if epochs else []:
            known = metrics | (tests if metrics["epoch"] == epochs - 1 else {})
            self.tracker.log_epoch(row.run_id, epoch_metrics(known), metrics["epoch"])
            self._note(row, metrics["epoch"] + 1, metrics[METRIC])

    def _note(self, row: Row, epochs: int, top1: float) -> None:
        row.epochs, row.top1 = epochs, top1
        row.best_top1 = max(top1, row.best_top1 or 0.0)

    def _recipe(self, row: Row) -> Any:
        return trial_recipe(self.plan.recipe.to_dict(), row.values)

    def _log_data(self, row: Row) -> None:
        self.tracker.log_data(
            row.run_id, self.plan.data.name, self.plan.data.fingerprint, self.plan.data.sizes
        )

    def _give_up_in_vain(self) -> None:
        wanted = min(GIVE_UP_AFTER, self.board.num_trials or GIVE_UP_AFTER)
        kinds = {re.sub(r"[\d.e+-]+", "#", row.cause) for row in self._ended}
        if (
            len(self._ended) == wanted > 1
            and all(row.state == "failed" for row in self._ended)
            and len(kinds) == 1
        ):
            self.stop.because(f"the first {wanted} trials all failed: {self._ended[-1].cause}")


class RecordConfirmation(RecordTrials):
    """As RecordTrials, for the runs that confirm settings with further seeds: beside the trials,
    not among them.
    """

    kind: Kind = "confirm"
    noun = "confirmation run"
    folder = CONFIRM

    def run_name(self, config: dict[str, Any]) -> str:
        return (
            f"confirm {config['setting']}, seed {config['overrides']['seed']}, of {self.plan.name}"
        )

    def tags(self, config: dict[str, Any]) -> dict[str, str]:
        return {"rbnn.confirm": str(config["number"]), "rbnn.confirms": str(config["setting"])}


def existing(files: list[Path]) -> list[Path]:
    """Those files that are there."""
    return [file for file in files if file.is_file()]


def epoch_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The loop's own metrics in what Ray Tune reports, without Ray's bookkeeping."""
    return {
        name: value
        for name, value in result.items()
        if ("/" in name and not name.startswith("config/")) or name in PLAIN
    }


PLAIN = ("lr", "t", "k", "digest")
