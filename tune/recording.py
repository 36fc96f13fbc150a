"""What the sweep's own process does when Ray Tune tells it something: rows on the board, runs in MLflow. One writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import ray.tune
from ray import cloudpickle

from rbnn.engine import BEST, LAST
from tune.board import Board, Row, State
from tune.sweep import METRIC, Plan
from tune.tracking import Status, Tracker
from tune.trial import trial_directory, trial_recipe

STATUS: dict[State, Status] = {"complete": "FINISHED", "pruned": "KILLED", "killed": "KILLED", "failed": "FAILED"}


class RecordTrials(ray.tune.Callback):
    """Keeps `board` and the tracker's child runs of `parent` true; calls `changed(row)` after every change of a trial."""

    def __init__(
        self, plan: Plan, board: Board, tracker: Tracker, parent: str, stop: Event, changed: Callable[[Row], None]
    ) -> None:
        self.plan = plan
        self.board = board
        self.tracker = tracker
        self.parent = parent
        self.stop = stop
        self.changed = changed

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number in self.board.rows:
            return
        recipe = trial_recipe(self.plan.recipe.to_dict(), trial.config["overrides"])
        tags = {"rbnn.sweep": self.plan.name, "rbnn.trial": str(number), "rbnn.recipe": self.plan.file.name}
        row = Row(number, trial.config["overrides"])
        row.run_id = self.tracker.start_run(
            "trial", f"{self.plan.name}-{number:04d}", recipe=recipe, parent=self.parent, tags=tags
        )
        self.tracker.log_data(row.run_id, self.plan.data.name, self.plan.data.fingerprint, self.plan.data.sizes)
        self.board.rows[number] = row
        self.changed(row)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        row = self.board.rows[trial.config["number"]]
        if METRIC not in result or result["epoch"] <= row.epochs:
            return
        row.epochs, row.top1 = result["epoch"], result[METRIC]
        row.best_top1 = max(row.top1, row.best_top1 or 0.0)
        self.tracker.log_epoch(row.run_id, epoch_metrics(result), row.epochs - 1)
        self.changed(row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = self.board.rows[trial.config["number"]]
        if row.epochs >= self.plan.recipe.epochs:
            self._end(row, "complete")
        else:
            self._end(row, "killed" if self.stop.is_set() or not self._was_pruned(row) else "pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self.board.rows[trial.config["number"]], "failed", failure_cause(trial))

    def end_unfinished(self) -> None:
        """Record every trial that Ray Tune never said the end of as killed."""
        for row in self.board.running:
            self._end(row, "killed")

    def _was_pruned(self, row: Row) -> bool:
        settings = self.plan.file.scheduler
        return settings.name == "asha" and row.epochs >= settings.grace_period

    def _end(self, row: Row, state: State, cause: str = "") -> None:
        row.state, row.cause = state, cause
        directory = trial_directory(self.plan.directory, row.number)
        self.tracker.log_checkpoints(row.run_id, existing([directory / LAST, directory / BEST]))
        self.tracker.finish(row.run_id, STATUS[state], pruned=state == "pruned", cause=cause)
        self.changed(row)


def failure_cause(trial: Any) -> str:
    """Why a trial failed, from the file that Ray has just written (`trial.get_pickled_error` reads its later copy)."""
    from tune.trainer import cause_of

    file = trial.pickled_error_file
    return cause_of(cloudpickle.loads(Path(file).read_bytes())) if file and Path(file).is_file() else "its process ended"


def existing(files: list[Path]) -> list[Path]:
    """Those files that are there."""
    return [file for file in files if file.is_file()]


def epoch_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The loop's own metrics in what Ray Tune reports, without Ray's bookkeeping."""
    return {name: value for name, value in result.items() if ("/" in name and not name.startswith("config/")) or name in PLAIN}


PLAIN = ("lr", "t", "k", "digest")
