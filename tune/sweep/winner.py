"""The best setting of a sweep, as a recipe file that `rbnn replay` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.errors import RunFailed
from rbnn.recipe import Recipe
from tune.sweep.confirm import SUFFIX, Setting, against_default, settings_of, spread
from tune.sweep.folder import SweepFolder
from tune.sweep.study import Study
from tune.sweep.summary import SweepSummary, look_at
from tune.sweep.table import BASELINE, TrialRow, percent, shown


@dataclass(frozen=True)
class Winner:
    """The trial that a sweep holds for the best: by its mean val/top1 over fresh seeds where that
    is known, else by its own.
    """

    row: TrialRow
    recipe: Recipe
    baseline: Recipe
    setting: Setting | None
    default: Setting | None

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Option -> (documented value, value) where they differ."""
        ours, theirs = self.recipe.to_dict(), self.baseline.to_dict()
        return {
            name: (theirs[name], value) for name, value in ours.items() if value != theirs[name]
        }

    @property
    def confirmed(self) -> str:
        """What fresh seeds say of it, in words."""
        if self.setting is None:
            return "unconfirmed: one run with one seed"
        test = f", test/top1 {spread(self.setting.test)} %" if self.setting.test else ""
        seeds = f"{len(self.setting.val)} fresh seeds: val/top1 {spread(self.setting.val)} %{test}"
        return f"{seeds}; {against_default(self.setting, self.default)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        setting = self.setting
        return {
            "trial": self.row.number,
            "run": self.row.run_id,
            "val/top1": self.row.top1,
            "confirmed": None
            if setting is None
            else {"val/top1": setting.val, "test/top1": setting.test},
            "changes": {name: value for name, (_, value) in self.changes.items()},
            "recipe": self.recipe.to_dict(),
        }


def winner_of(folder: SweepFolder) -> Winner:
    """The winner so far; RunFailed, one line, where no trial ran to its end."""
    standing: SweepSummary = look_at(folder)
    record = standing.record
    best = standing.board.best
    if best is None:
        raise RunFailed(
            f"sweep '{record.name}' has no trial that ran to its end; see rbnn status "
            f"{folder.handle}"
        )
    storage = folder.storage_url(record)
    confirmation = Study.existing(storage, record.name + SUFFIX)
    settings = settings_of(confirmation) if confirmation else []
    default = next((setting for setting in settings if setting.number == BASELINE), None)
    recipe = Recipe(**{**record.recipe, **best.values})
    return Winner(best, recipe, Recipe(**record.recipe), settings[0] if settings else None, default)


def lines_of(winner: Winner, name: str) -> list[str]:
    """The winner for people."""
    changes = "  ".join(f"{option} {shown(value)}" for option, (_, value) in winner.changes.items())
    lines = [
        f"sweep {name}: trial {winner.row.number}, val/top1 {percent(winner.row.top1)} %",
        winner.confirmed,
    ]
    return [*lines, f"against the documented recipe: {changes or 'no change'}"]


def export(winner: Winner, name: str, file: Path) -> None:
    """Write the winner's whole recipe, with where it comes from at its head."""
    head = [f"# {line}" for line in lines_of(winner, name)]
    if winner.recipe.val_fraction:
        share = (
            f"{winner.recipe.val_fraction:.0%} of the training images are held out, as in the sweep"
        )
        head.append(
            f"# {share}; --val_fraction 0 trains on all of them and validates on the test set"
        )
    head.append(f"# Run it: rbnn replay {file}")
    file.write_text("\n".join(head) + "\n" + winner.recipe.to_yaml())
