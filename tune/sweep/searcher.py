"""Optuna behind Ray Tune, whose own OptunaSearch tells a stopped trial as complete."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import ray.tune.search
from optuna.trial import FrozenTrial, TrialState

from tune.sweep.proposals import Proposals
from tune.sweep.stop import breaking
from tune.sweep.study import BUSY_S, SINCE, VALUES, Study, last_epoch
from tune.sweep.table import METRIC
from tune.sweep.trial import TrialSpec


class OptunaSearcher(ray.tune.search.Searcher):
    """Hands recipe values to Ray's trials and tells an Optuna study how each ended.

    Complete: `epoch` of the last result (epochs done, from 1) is `num_epochs`. Pruned, with its
    last score: stopped earlier. Failed: an error, or no finite score at the end. Trials that Ray
    never tells the end of go on waiting (`interrupt`).

    Interrupted trials are handed out again first, then those that wait in the study with their
    values, then `proposals`; without `proposals` the search then ends.
    """

    def __init__(self, history: Study, num_epochs: int, proposals: Proposals | None = None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.history, self.proposals, self._num_epochs = history, proposals, num_epochs
        self._numbers: dict[str, int] = {}
        self._began: dict[int, float] = {}
        if proposals:
            proposals.enqueue(history)

    @breaking
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The config of a TrialSpec; Searcher.FINISHED where there is nothing more to try."""
        trial = self.history.take_interrupted()
        if trial is None and self.proposals:
            trial = self.proposals.next(self.history)
        if trial is None:
            return str(self.FINISHED)
        self._numbers[trial_id] = trial.number
        self.history.tag(trial.number, SINCE, time.time())
        self._began[trial.number] = time.monotonic() - trial.user_attrs.get(BUSY_S, 0.0)
        return spec_of(trial).to_config()

    @breaking
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes the score of an epoch; one that is repeated after a restart is replaced."""
        if METRIC in result:
            number = self._numbers[trial_id]
            self.history.note(number, int(result["epoch"]), float(result[METRIC]))

    @breaking
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how the trial ended. Ray hands the last result over here only."""
        number = self._numbers.get(trial_id)
        if number is None or self.history.trials()[number].state != TrialState.RUNNING:
            return
        score = math.nan
        if result and not error:
            score = float(result.get(METRIC, score))
            self.on_trial_result(trial_id, result)
        self.history.tag(number, BUSY_S, self._busy_s(number))
        for name, value in (result or {}).items():
            if name.startswith("test/"):
                self.history.tag(number, name, float(value))
        if not result or not math.isfinite(score):
            self.history.end(number, TrialState.FAIL)
        elif int(result["epoch"]) >= self._num_epochs:
            self.history.end(number, TrialState.COMPLETE, score)
        else:
            self.history.end(number, TrialState.PRUNED)

    def interrupt(self) -> None:
        """Let the trials that still run wait for a later `suggest`, in this process or the next."""
        for number in self.history.interrupt_running():
            if number in self._began:
                self.history.tag(number, BUSY_S, self._busy_s(number))

    def save(self, checkpoint_path: str) -> None:
        """The study is its own memory; Ray wants a file."""
        Path(checkpoint_path).write_text(self.history.name, encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """The study is its own memory."""

    def _busy_s(self, number: int) -> float:
        return round(time.monotonic() - self._began[number], 3)


def spec_of(trial: FrozenTrial) -> TrialSpec:
    """What the process of a trial is told."""
    known = {key: trial.user_attrs[key] for key in ("test", "setting") if key in trial.user_attrs}
    return TrialSpec(trial.number, trial.user_attrs[VALUES], last_epoch(trial), **known)
