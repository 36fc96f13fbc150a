"""Verdicts: pure comparisons of what was recorded with what came out now. Nothing here reads a
store or prints.

A verdict is positive (exit status 0) or negative (1). The same training on the same kind of machine
owes the same bits. On another machine or another torch the last bits of a sum differ, and small
differences grow: there the final accuracy counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rbnn.recipe import Recipe
from tune.run.diff import (
    SCORE,
    Difference,
    EpochDifference,
    differences,
    final_deviation,
    first_difference,
)
from tune.run.record import Epoch, RunRecord

# Points of val/top1: a little more than the 0.4 that the RBNN authors saw between runs of one
# recipe.
TOLERANCE = 0.5
MACHINE: tuple[str, ...] = ("cpu", "cpu_features", "gpus", "driver")
MACHINE += ("torch", "torchvision", "numpy", "nvidia-dali-cuda130")
NOT_COMPARED = ("command", "host")


@dataclass(frozen=True)
class Verdict:
    """What a replay proved. result: identical, within tolerance, differs or incomparable;
    deviation: of the final val/top1.
    """

    result: str
    num_epochs: int
    first: EpochDifference | None
    deviation: float | None
    tolerance: float
    environment: tuple[Difference, ...]
    same_machine: bool

    @property
    def positive(self) -> bool:
        """Identical; or within tolerance on another machine or packages, which give other bits."""
        tolerated = self.result == "within tolerance" and not self.same_machine
        return self.result == "identical" or tolerated

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        if self.result == "identical":
            return f"identical to the bit over {self.num_epochs} epochs"
        if self.first is None or self.deviation is None:
            return "not comparable: the two runs share no recorded epoch"
        side, owed = "outside", ""
        if self.result == "within tolerance":
            side = "within"
            owed = "; the same machine and packages owe the same bits" * self.same_machine
        by = f"differs by {self.deviation:.2f} points, {side} the tolerance of {self.tolerance:g}"
        return f"differs from {self.first.text}; final {SCORE} {by}{owed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for an artifact."""
        return {**asdict(self), "positive": self.positive, "text": self.text}


def environment_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """What differs of what was recorded, but the command; what the bits depend on comes first."""
    known = {name: value for name, value in new.items() if name in old}
    found = differences(old, known, NOT_COMPARED)
    return sorted(found, key=lambda each: each.name not in MACHINE)


def verify(
    recorded: RunRecord, epochs: Sequence[Epoch], environment: Mapping[str, str], tolerance: float
) -> Verdict:
    """The verdict on a replay that gave `epochs` on a machine described by `environment`."""
    changed = environment_differences(recorded.environment, environment)
    same_machine = not any(each.name in MACHINE for each in changed)
    num_common = len({each.epoch for each in recorded.epochs} & {each.epoch for each in epochs})
    deviation = final_deviation(recorded.epochs, epochs)
    first = first_difference(recorded.epochs, epochs)
    if not num_common or deviation is None:
        result = "incomparable"
    elif first is None:
        result = "identical"
    else:
        result = "within tolerance" if deviation <= tolerance else "differs"
    return Verdict(result, num_common, first, deviation, tolerance, tuple(changed), same_machine)


@dataclass(frozen=True)
class SeedsVerdict:
    """Several seeds of a recipe against its documented figure. tops: the best val/top1 of each
    seed, percent.

    result: reached, within the known spread, not reached, or not applicable (`why` says why).
    """

    result: str
    why: str
    tops: tuple[float, ...]
    documented: float | None
    spread: tuple[float, float] | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.tops)

    @property
    def std(self) -> float | None:
        """The sample's standard deviation; None for a single seed."""
        return statistics.stdev(self.tops) if len(self.tops) > 1 else None

    @property
    def positive(self) -> bool:
        return self.result != "not reached"

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        std = f" ± {self.std:.2f}" if self.std is not None else ""
        seeds = _counted(len(self.tops), "seed")
        measured = f"best {SCORE} {self.mean:.2f}{std} % over {seeds}"
        if self.result == "not applicable":
            return f"{measured}; no documented figure applies: {self.why}"
        known = f" (known spread {self.spread[0]:g} to {self.spread[1]:g})" if self.spread else ""
        return f"{measured}; documented {self.documented:g} %{known}: {self.result}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for an artifact."""
        derived = ("mean", "std", "positive", "text")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def judge_seeds(
    tops: Sequence[float], recipe: Recipe, named: Recipe | None, figures: Mapping[str, Any]
) -> SeedsVerdict:
    """The verdict on seeds of `recipe`; named: the documented one; figures: its top1 and spread."""
    why, documented = why_not_comparable(recipe, named, figures), figures.get("top1")
    spread = figures.get("spread")
    bounds = (float(spread[0]), float(spread[1])) if spread else None
    mean = statistics.fmean(tops)
    if why or documented is None:
        result = "not applicable"
    elif mean >= documented:
        result = "reached"
    else:
        result = "within the known spread" if bounds and mean >= bounds[0] else "not reached"
    return SeedsVerdict(result, why, tuple(tops), documented, bounds)


def why_not_comparable(recipe: Recipe, named: Recipe | None, figures: Mapping[str, Any]) -> str:
    """Why a run of `recipe` cannot be held against the documented figure; "" where it can."""
    if named is None or "top1" not in figures:
        return "no accuracy is documented for this recipe"
    if recipe.epochs != named.epochs:
        return f"{_counted(recipe.epochs, 'epoch')} instead of {named.epochs}"
    if recipe.dataset != named.dataset:
        return f"data set {recipe.dataset} instead of {named.dataset}"
    if recipe.val_fraction:
        return f"{recipe.val_fraction:.0%} of the training images are held out, and validated on"
    own = recipe.to_dict("result")
    for name, value in named.to_dict("result").items():
        if own[name] != value:
            return f"{name} is {own[name]} instead of {value}"
    return ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
