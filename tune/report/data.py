"""SweepData: all that a report shows of a sweep, read from its folder and its study; MLflow would
take long to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tune.run.folder import RunFolder
from tune.sweep.folder import SweepFolder, trial_directory
from tune.sweep.study import Study
from tune.sweep.summary import Curve, SweepSummary, curves_of, importance_of, look_at
from tune.sweep.table import TrialRow, TrialTable

NUM_DIAGNOSED = 5


@dataclass(frozen=True)
class Axis:
    """One searched option as an axis. choices: its values where it is no range; log: its scale."""

    name: str
    log: bool
    choices: tuple[Any, ...]

    @property
    def label(self) -> str:
        return self.name + (" (log)" if self.log else "")

    def place(self, row: TrialRow) -> float:
        """Where a trial lies on the axis: its value, to six digits, or the place of its choice."""
        value = row.values[self.name]
        return float(self.choices.index(value)) if self.choices else float(f"{value:.6g}")


@dataclass(frozen=True)
class SweepData:
    """curves: trial -> (epochs completed, val/top1 in percent); diagnostics: metric -> the same."""

    description: str
    summary: SweepSummary
    axes: list[Axis]
    curves: dict[int, Curve]
    importance: dict[str, float]
    diagnostics: dict[str, dict[int, Curve]]

    @property
    def name(self) -> str:
        return self.summary.record.name

    @property
    def recipe(self) -> dict[str, Any]:
        return self.summary.record.recipe

    @property
    def table(self) -> TrialTable:
        return self.summary.table

    @property
    def rows(self) -> list[TrialRow]:
        """The trials that have a score, by number."""
        scored = (row for row in self.table.rows.values() if row.top1 is not None)
        return sorted(scored, key=lambda row: row.number)

    @property
    def tried(self) -> list[TrialRow]:
        """Those of them that ran as long as they were let."""
        return [row for row in self.rows if row.state in ("complete", "pruned")]

    def best_so_far(self) -> Curve:
        """(trial number, the best val/top1 of complete trials up to it) from the first of them."""
        found: Curve = []
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
    study = Study.existing(folder.storage_url(record), record.name)
    summary = look_at(folder, study)
    best = [row.number for row in summary.table.ranked[:NUM_DIAGNOSED]]
    axes = []
    for param in file.space.entries.values():
        choices = () if param.is_range else tuple(value for _, value in param.choices)
        axes.append(Axis(param.name, param.log, choices))
    return SweepData(
        description=file.description,
        summary=summary,
        axes=axes,
        curves=curves_of(study) if study else {},
        importance=importance_of(study) if study else {},
        diagnostics=diagnostics_of(folder, best),
    )


def diagnostics_of(folder: SweepFolder, numbers: Sequence[int]) -> dict[str, dict[int, Curve]]:
    """The method's own metrics (`rbnn/...`) of the given trials, from their journals."""
    found: dict[str, dict[int, Curve]] = {}
    for number in numbers:
        for row in RunFolder(trial_directory(folder.directory, number)).epochs:
            for key in row:
                if key.startswith("rbnn/"):
                    curve = found.setdefault(key, {}).setdefault(number, [])
                    curve.append((row["epoch"] + 1, row[key]))
    return found
