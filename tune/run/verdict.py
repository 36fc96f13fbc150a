"""Verdicts: pure comparisons of what was recorded with what came out now. Nothing here reads a
store or prints.

A verdict is positive (exit status 0) or negative (1). The same training on the same kind of machine
owes the same bits. On another machine or another torch the last bits of a sum differ, and small
differences grow: there the final accuracy counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rbnn.recipe import Recipe
from tune.run.record import Epoch, RunRecord

# points of val/top1: a little more than the 0.4 that the RBNN authors saw between runs of one
# recipe
TOLERANCE = 0.5
SCORE = "val/top1"
MACHINE = (
    "cpu",
    "cpu_features",
    "gpus",
    "driver",
    "torch",
    "torchvision",
    "numpy",
    "nvidia-dali-cuda130",
)
NOT_COMPARED = ("command", "host")


@dataclass(frozen=True)
class Difference:
    """A name with its two values, as text."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class EpochDifference:
    """The first epoch whose digests or metrics differ; `metrics`: name -> (recorded, now), of those
    that do.
    """

    epoch: int
    digests: tuple[str, ...]
    metrics: dict[str, tuple[float, float]]

    @property
    def text(self) -> str:
        """The epoch, and the largest relative difference with its values."""
        parts = [f"epoch {self.epoch}"]
        if self.metrics:
            name, (old, new) = max(self.metrics.items(), key=lambda item: _relative(*item[1]))
            parts.append(f"{name} {old!r} recorded, {new!r} now")
        parts += [
            f"another {name} of the weights" if name == "digest" else f"another {name}"
            for name in self.digests
        ]
        return ": ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]


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
        """Identical; or within tolerance where another machine or package version makes the bits
        another's.
        """
        return self.result == "identical" or (
            self.result == "within tolerance" and not self.same_machine
        )

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        if self.result == "identical":
            return f"identical to the bit over {self.num_epochs} epochs"
        if self.first is None or self.deviation is None:
            return "not comparable: the two runs share no recorded epoch"
        side = "within" if self.result == "within tolerance" else "outside"
        owed = (
            "; the same machine and packages owe the same bits"
            if self.same_machine and side == "within"
            else ""
        )
        return (
            f"differs from {self.first.text}; final {SCORE} differs by {self.deviation:.2f} "
            "points, "
            f"{side} the tolerance of {self.tolerance:g}{owed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for an artifact."""
        return {**asdict(self), "positive": self.positive, "text": self.text}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = ()
) -> list[Difference]:
    """The names whose values differ; a name that one side lacks counts as empty."""
    names = [
        name for name in [*old, *(name for name in new if name not in old)] if name not in ignored
    ]
    pairs = [(name, str(old.get(name, "")), str(new.get(name, ""))) for name in names]
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def environment_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """What differs of what was recorded, the command line aside; what the bits depend on comes
    first.
    """
    found = differences(
        old, {name: value for name, value in new.items() if name in old}, NOT_COMPARED
    )
    return sorted(found, key=lambda each: each.name not in MACHINE)


def first_difference(old: Sequence[Epoch], new: Sequence[Epoch]) -> EpochDifference | None:
    """The first epoch, of those that both hold, with a digest or a metric that is not the same to
    the last bit.
    """
    later = {epoch.epoch: epoch for epoch in new}
    for epoch in old:
        other = later.get(epoch.epoch)
        if other is None:
            continue
        digests = tuple(
            key
            for key in epoch.digests
            if key in other.digests and epoch.digests[key] != other.digests[key]
        )
        names = [
            key for key in epoch.metrics if key in other.metrics and not key.startswith("time/")
        ]
        metrics = {key: (epoch.metrics[key], other.metrics[key]) for key in names}
        metrics = {key: pair for key, pair in metrics.items() if not _same(*pair)}
        if digests or metrics:
            return EpochDifference(epoch.epoch, digests, metrics)
    return None


def verify(
    recorded: RunRecord, epochs: Sequence[Epoch], environment: Mapping[str, str], tolerance: float
) -> Verdict:
    """The verdict on a replay that gave `epochs` on a machine described by `environment`."""
    changed = environment_differences(recorded.environment, environment)
    same_machine = not any(each.name in MACHINE for each in changed)
    common = sorted({each.epoch for each in recorded.epochs} & {each.epoch for each in epochs})
    deviation = final_deviation(recorded.epochs, epochs)
    first = first_difference(recorded.epochs, epochs)
    if not common or deviation is None:
        result = "incomparable"
    elif first is None:
        result = "identical"
    else:
        result = "within tolerance" if deviation <= tolerance else "differs"
    return Verdict(result, len(common), first, deviation, tolerance, tuple(changed), same_machine)


def final_deviation(old: Sequence[Epoch], new: Sequence[Epoch]) -> float | None:
    """|difference| of val/top1, in points, at the last epoch that both hold; None where there is
    none.
    """
    scores = [
        {each.epoch: each.metrics[SCORE] for each in side if SCORE in each.metrics}
        for side in (old, new)
    ]
    common = scores[0].keys() & scores[1].keys()
    return abs(scores[0][max(common)] - scores[1][max(common)]) if common else None


def _same(old: float, new: float) -> bool:
    return old == new or (math.isnan(old) and math.isnan(new))


def _relative(old: float, new: float) -> float:
    size = max(abs(old), abs(new))
    return abs(old - new) / size if math.isfinite(old) and math.isfinite(new) and size else math.inf


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
        spread = f" ± {self.std:.2f}" if self.std is not None else ""
        measured = (
            f"best {SCORE} {self.mean:.2f}{spread} % over {len(self.tops)} "
            f"seed{'s' * (len(self.tops) > 1)}"
        )
        if self.result == "not applicable":
            return f"{measured}; no documented figure applies: {self.why}"
        known = f" (known spread {self.spread[0]:g} to {self.spread[1]:g})" if self.spread else ""
        return f"{measured}; documented {self.documented:g} %{known}: {self.result}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for an artifact."""
        return {
            **asdict(self),
            "mean": self.mean,
            "std": self.std,
            "positive": self.positive,
            "text": self.text,
        }


def judge_seeds(
    tops: Sequence[float], recipe: Recipe, named: Recipe | None, figures: Mapping[str, Any]
) -> SeedsVerdict:
    """The verdict on seeds of `recipe`; named: the documented recipe of its name, if any; figures:
    top1 and spread.
    """
    why = why_not_comparable(recipe, named, figures)
    documented = figures.get("top1")
    spread = figures.get("spread")
    bounds = (float(spread[0]), float(spread[1])) if spread else None
    if why:
        return SeedsVerdict("not applicable", why, tuple(tops), documented, bounds)
    mean = statistics.fmean(tops)
    if mean >= figures["top1"]:
        result = "reached"
    else:
        result = "within the known spread" if bounds and mean >= bounds[0] else "not reached"
    return SeedsVerdict(result, "", tuple(tops), documented, bounds)


def why_not_comparable(recipe: Recipe, named: Recipe | None, figures: Mapping[str, Any]) -> str:
    """Why a run of `recipe` cannot be held against the documented figure; "" where it can."""
    if named is None or "top1" not in figures:
        return "no accuracy is documented for this recipe"
    if recipe.epochs != named.epochs:
        return f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)} instead of {named.epochs}"
    if recipe.dataset != named.dataset:
        return f"data set {recipe.dataset} instead of {named.dataset}"
    if recipe.val_fraction:
        return f"{recipe.val_fraction:.0%} of the training images are held out, and validated on"
    own = recipe.to_dict("result")
    for name, value in named.to_dict("result").items():
        if own[name] != value:
            return f"{name} is {own[name]} instead of {value}"
    return ""
