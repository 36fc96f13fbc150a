"""How a sweep stands, and its winner as a recipe: read from its folder and its study alone."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from rbnn.errors import RequestError, RunFailed
from rbnn.recipe import Recipe
from tune.sweep import confirm
from tune.sweep.confirm import Setting, settings_of, spread
from tune.sweep.folder import SweepFolder, SweepRecord, sweep_folders
from tune.sweep.study import SUFFIX, Study, last_epoch
from tune.sweep.table import TrialRow, TrialTable, percent, rows_of
from tune.sweep.table import shown as in_words
from tune.uris import shown

LEAST_FOR_IMPORTANCE = 4  # complete trials; fewer say nothing of what matters
Curve = list[tuple[int, float]]  # (epochs completed, value) in order
STATES = ("complete", "short", "pruned", "failed", "running", "interrupted")


@dataclass
class SweepSummary:
    """A sweep as it is now. busy_s: seconds that trials, of search and confirmation, held places.

    num_to_confirm: confirmation runs begun or lined up, 0 before the search has ended; settings:
    what the finished ones say, the best first.
    """

    folder: SweepFolder
    record: SweepRecord
    state: str
    table: TrialTable
    busy_s: float = 0.0
    used_s: float = 0.0
    num_confirmed: int = 0
    num_to_confirm: int = 0
    settings: list[Setting] = field(default_factory=list)

    @property
    def confirmation(self) -> list[str]:
        """What fresh seeds say, as lines of text."""
        return confirm.confirmation_table(self.settings) if self.settings else []

    @property
    def finish(self) -> float | None:
        """When it will have ended, confirmation included, in seconds since 1970; None: unknown."""
        seconds = self.table.seconds_left() if self.state == "running" else None
        return None if seconds is None else time.time() + seconds

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        counts = dict.fromkeys(STATES, 0)
        for row in self.table.rows.values():
            counts[row.shown_state] += 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        row, record, best = self.table.best, self.record, {}
        if row:
            names = ("trial", "val/top1", "run", "values")
            best = dict(zip(names, (row.number, row.top1, row.run_id, row.values), strict=True))
        rows = [vars(row) | {"state": row.shown_state} for row in self.table.ranked]
        return {
            "sweep": record.name,
            "state": self.state,
            "cause": record.cause,
            "folder": str(self.folder.directory.resolve()),
            "store": shown(record.store),
            "parent_run": self.folder.run_id,
            "process": record.process,
            "trials": {"budget": record.trials, **self.counts()},
            "epochs_done": self.table.epochs,
            "best": best or None,
            "cpu_hours": self.busy_s * record.cpus / 3600,
            "gpu_hours": self.busy_s * record.gpus / 3600,
            "hours": self.used_s / 3600,
            "began": _iso(record.began),
            "ended": _iso(record.ended),
            "finish": _iso(self.finish),
            "confirmation_runs": {"done": self.num_confirmed, "of": self.num_to_confirm},
            "rows": rows,
        }


def look_at(folder: SweepFolder, study: Study | None = None) -> SweepSummary:
    """How the sweep in a folder stands; changes nothing. study: its own, where it was read."""
    record, running, storage = folder.record, folder.state == "running", folder.storage_url()
    study = study or Study.existing(storage, record.name)
    table = TrialTable(record.name, record.trials, int(record.recipe["epochs"]))
    found = SweepSummary(folder, record, folder.state, table, used_s=folder.used_s)
    if study:
        table.rows = rows_of(study, folder.directory)
        for row in table.rows.values():
            if row.state == "running" and not running:  # its process died before it was noted
                row.state = "killed"
        found.busy_s = study.busy_s(running)
    confirmed = 0  # epochs
    if confirmation := Study.existing(storage, record.name + SUFFIX):
        trials = confirmation.trials()
        found.busy_s += confirmation.busy_s(running)
        found.num_to_confirm = len(trials)
        confirmed = sum(map(last_epoch, trials))
        found.num_confirmed = len(confirmation.finished)
        found.settings = settings_of(confirmation)
    if found.settings:
        table.confirmed = found.settings[0].number
    if running:
        to_come = found.num_to_confirm or confirm.num_confirming(
            folder.config.confirm_top, record.confirm_seeds, record.trials
        )
        table.began = time.monotonic() - found.used_s
        table.epochs_before = -confirmed  # they took of that time too
        table.epochs_after = max(to_come * table.num_epochs - confirmed, 0)
        table.budget_s = record.budget_s
    return found


def look_at_all(results_dir: str) -> list[dict[str, Any]]:
    """All sweeps under a results folder, without trials; `error` where a storage is away."""
    found = []
    for folder in sweep_folders(results_dir):
        try:
            one = look_at(folder).to_dict()
            del one["rows"]
        except RequestError as error:
            one = {"sweep": folder.record.name, "state": folder.state, "error": str(error)}
        found.append(one)
    return found


@dataclass(frozen=True)
class Winner:
    """The best trial: by its mean val/top1 over fresh seeds where that is known, else its own."""

    row: TrialRow
    recipe: Recipe
    baseline: Recipe
    setting: Setting | None
    default: Setting | None

    @property
    def changes(self) -> dict[str, Any]:
        """The options that differ from the documented ones."""
        known, ours = self.baseline.to_dict(), self.recipe.to_dict()
        return {name: value for name, value in ours.items() if value != known[name]}

    @property
    def confirmed(self) -> str:
        """What fresh seeds say of it, in words."""
        if self.setting is None:
            return "unconfirmed: one run with one seed"
        val, test = self.setting.val, self.setting.test
        tested = f", test/top1 {spread(test)} %" if test else ""
        against = confirm.against_default(self.setting, self.default)
        return f"{len(val)} fresh seeds: val/top1 {spread(val)} %{tested}; {against}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        one = self.setting
        return {
            "trial": self.row.number,
            "run": self.row.run_id,
            "val/top1": self.row.top1,
            "confirmed": {"val/top1": one.val, "test/top1": one.test} if one else None,
            "changes": self.changes,
            "recipe": self.recipe.to_dict(),
        }


def winner_of(folder: SweepFolder) -> Winner:
    """The winner so far; RunFailed, one line, where no trial ran to its end."""
    summary = look_at(folder)
    best, name = summary.table.best, summary.record.name
    if best is None:
        remedy = f"see rbnn status {folder.handle}"
        raise RunFailed(f"sweep '{name}' has no trial that ran to its end; {remedy}")
    recipe, settings = summary.record.recipe, summary.settings
    setting = settings[0] if settings else None
    ours = Recipe(**{**recipe, **best.values})
    return Winner(best, ours, Recipe(**recipe), setting, confirm.default_of(settings))


def lines_of(winner: Winner, name: str) -> list[str]:
    """The winner for people."""
    changes = "  ".join(f"{option} {in_words(value)}" for option, value in winner.changes.items())
    return [
        f"sweep {name}: trial {winner.row.number}, val/top1 {percent(winner.row.top1)} %",
        winner.confirmed,
        f"against the documented recipe: {changes or 'no change'}",
    ]


def export(winner: Winner, name: str, file: Path) -> None:
    """Write the winner's whole recipe, with where it comes from at its head."""
    head, held_out = lines_of(winner, name), winner.recipe.val_fraction
    if held_out:
        more = "--val_fraction 0 trains on all of them and validates on the test set"
        head += [f"{held_out:.0%} of the training images are held out, as in the sweep; {more}"]
    head += [f"Run it: rbnn replay {file}"]
    comment = "".join(f"# {line}\n" for line in head)
    file.write_text(comment + winner.recipe.to_yaml(), encoding="utf-8")


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def curves_of(study: Study) -> dict[int, Curve]:
    """val/top1 in percent of every trial that reported an epoch, by number."""
    found = {trial.number: sorted(trial.intermediate_values.items()) for trial in study.trials()}
    return {number: curve for number, curve in found.items() if curve}


def importance_of(study: Study) -> dict[str, float]:
    """Each option's share in what tells good trials from others, by PED-ANOVA; {} for too few."""
    complete = study.trials(TrialState.COMPLETE)
    scores = {trial.value for trial in complete}
    names = dict.fromkeys(name for trial in complete for name in trial.params)
    varied = [name for name in names if len({trial.params.get(name) for trial in complete}) > 1]
    if len(complete) < LEAST_FOR_IMPORTANCE or len(scores) < 2 or not varied:
        return {}
    from optuna.importance import get_param_importances  # a second: it loads scikit-learn

    return dict(get_param_importances(study.study, params=varied))
