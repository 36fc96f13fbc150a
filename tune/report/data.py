"""SweepData: all that a report shows of a sweep, read from its folder and its study; MLflow would
take long to ask.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from tune.sweep.folder import SweepFolder
from tune.sweep.param import SearchParam
from tune.sweep.study import Study
from tune.sweep.summary import SweepSummary, look_at
from tune.sweep.table import METRIC, TrialRow

NUM_DIAGNOSED = 5
# as in tune.sweep.trial and tune.run.journal, which load torch: seconds that a report needs not
JOURNAL = "trials/{:04d}/metrics.jsonl"
LEAST_FOR_IMPORTANCE = 4  # complete trials; fewer say nothing of what matters
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Axis:
    """One searched option as an axis. choices: its values where it is no range; log: whether its
    scale is.
    """

    name: str
    log: bool
    choices: tuple[Any, ...]

    def place(self, value: Any) -> float:
        """Where a value lies on the axis: itself, or the place of a choice."""
        return float(self.choices.index(value)) if self.choices else float(value)


@dataclass(frozen=True)
class SweepData:
    """curves: trial -> (epochs completed, val/top1 in percent) in order; diagnostics: metric ->
    trial -> (epoch, value).
    """

    name: str
    description: str
    recipe: dict[str, Any]
    standing: SweepSummary
    axes: list[Axis]
    curves: dict[int, Curve]
    importance: dict[str, float]
    diagnostics: dict[str, dict[int, Curve]]

    @property
    def rows(self) -> list[TrialRow]:
        """The trials that have a score, by number."""
        return sorted(
            (row for row in self.standing.table.rows.values() if row.top1 is not None),
            key=lambda row: row.number,
        )

    @property
    def num_epochs(self) -> int:
        return self.standing.table.num_epochs

    @property
    def default_top1(self) -> float | None:
        """The documented default's score."""
        base = self.standing.table.baseline
        return base.top1 if base else None

    def best_so_far(self) -> list[tuple[int, float]]:
        """(trial number, the best val/top1 of complete trials up to it), from the first complete
        trial to the last trial.
        """
        found: list[tuple[int, float]] = []
        for row in self.rows:
            best = found[-1][1] if found else None
            if row.state == "complete" and row.top1 is not None:
                best = row.top1 if best is None else max(best, row.top1)
            if best is not None:
                found.append((row.number, best))
        return found


def gather(folder: SweepFolder) -> SweepData:
    """Read a sweep, finished or running; changes nothing."""
    file, record = folder.config, folder.record
    history = Study.existing(folder.storage_url(record), record.name)
    trials = history.trials() if history else []
    standing = look_at(folder, history)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return SweepData(
        name=record.name,
        description=file.description,
        recipe=record.recipe,
        standing=standing,
        axes=[axis_of(entry) for entry in file.space.entries.values()],
        curves={
            trial.number: sorted(trial.intermediate_values.items())
            for trial in trials
            if trial.intermediate_values
        },
        importance=importance_of(history) if history and complete >= LEAST_FOR_IMPORTANCE else {},
        diagnostics=diagnostics_of(
            folder, [row.number for row in standing.table.ranked[:NUM_DIAGNOSED]]
        ),
    )


def axis_of(entry: SearchParam) -> Axis:
    """The axis of a searched option."""
    return Axis(
        entry.name, entry.log, () if entry.is_range else tuple(value for _, value in entry.choices)
    )


def importance_of(history: Study) -> dict[str, float]:
    """Share of each option in what tells good trials from others (PED-ANOVA, complete trials);
    empty where all are equal.
    """
    get_param_importances = _optuna_importance()
    scores = {trial.value for trial in history.trials(TrialState.COMPLETE)}
    return dict(get_param_importances(history.study)) if len(scores) > 1 else {}


def _optuna_importance() -> Any:
    """optuna.importance.get_param_importances, imported without scikit-learn, which another of its
    methods takes if it can.

    It would take a second, of the few that a report of a thousand trials takes.
    """
    absent = "sklearn" not in sys.modules and "optuna.importance" not in sys.modules
    if absent:
        sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        from optuna.importance import get_param_importances
    finally:
        if absent:
            del sys.modules["sklearn"]
    return get_param_importances


def diagnostics_of(folder: SweepFolder, numbers: Sequence[int]) -> dict[str, dict[int, Curve]]:
    """The method's own metrics (`rbnn/...`) of the given trials, from their journals."""
    found: dict[str, dict[int, Curve]] = {}
    for number in numbers:
        file = folder.directory / JOURNAL.format(number)
        for line in file.read_text().splitlines() if file.is_file() else []:
            metrics = _parsed(line)
            for key, value in metrics.items():
                if key.startswith("rbnn/"):
                    found.setdefault(key, {}).setdefault(number, []).append(
                        (metrics["epoch"] + 1, value)
                    )
    return found


def _parsed(line: str) -> dict[str, Any]:
    """A line of a journal; nothing of one that is being written, or that a kill cut short."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


__all__ = ["METRIC", "Axis", "Curve", "SweepData", "gather"]
