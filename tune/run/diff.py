"""How two recorded runs differ. Pure: nothing here reads a store or prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rbnn.recipe import FIELDS
from rbnn.values import PERCENT_DIGITS
from tune.run.record import Epoch, RunRecord

SCORE = "val/top1"
NOT_OF_THE_RUN = ("time/", "gpu/")  # metrics of the machine


@dataclass(frozen=True)
class Difference:
    """A name with its two values, as text."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class EpochDifference:
    """The first epoch that differs, with its digests and metrics (recorded, now) that do."""

    epoch: int
    digests: tuple[str, ...]
    metrics: dict[str, tuple[float, float]]

    def text_with(self, old: str, new: str) -> str:
        """The epoch, and the largest relative difference, each value with these words behind it."""
        parts = []
        if self.metrics:
            name, values = max(self.metrics.items(), key=lambda item: _relative(*item[1]))
            parts.append(f"{name} {values[0]!r}{old} {values[1]!r}{new}")
        for name in self.digests:
            parts.append(f"another {name}" + " of the weights" * (name == "digest"))
        return f"epoch {self.epoch}: {', '.join(parts)}"

    @property
    def text(self) -> str:
        return self.text_with(" recorded,", " now")


@dataclass(frozen=True)
class RunDifference:
    """Two runs beside each other. options: those that may change the result, the others being in
    `folders`; deviation: of val/top1 (points) at the last epoch that both hold.
    """

    runs: tuple[str, str]
    options: list[Difference]
    folders: list[Difference]
    environment: list[Difference]
    data: list[Difference]
    num_epochs: tuple[int, int]
    first: EpochDifference | None
    deviation: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for --json."""
        return asdict(self)


def compare(old: RunRecord, new: RunRecord) -> RunDifference:
    """The differences of two records."""
    changed = differences(old.recipe, new.recipe)
    return RunDifference(
        runs=(old.run_id, new.run_id),
        options=[each for each in changed if FIELDS[each.name].metadata["affects"] != "nothing"],
        folders=[each for each in changed if FIELDS[each.name].metadata["affects"] == "nothing"],
        environment=differences(old.environment, new.environment),
        data=differences(_flat(old.data), _flat(new.data)),
        num_epochs=(len(old.epochs), len(new.epochs)),
        first=first_difference(old.epochs, new.epochs),
        deviation=final_deviation(old.epochs, new.epochs),
    )


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    sizes = {f"{split} images": size for split, size in data.get("sizes", {}).items()}
    return {"name": data.get("name", ""), "fingerprint": data.get("fingerprint", ""), **sizes}


def lines_of(found: RunDifference) -> list[str]:
    """The differences as text."""
    both = zip(found.runs, found.num_epochs, strict=True)
    lines = [f"{run}  {count} epochs" for run, count in both]
    sections = {"options": found.options, "options that change no result": found.folders}
    sections |= {"environment": found.environment, "data": found.data}
    for title, rows in sections.items():
        lines.append(f"{title}:" if rows else f"{title}: the same")
        width = max((len(row.name) for row in rows), default=0)
        lines += [f"  {row.name:{width}}  {row.old or '-'}  ->  {row.new or '-'}" for row in rows]
    if found.first:
        lines.append(f"epochs: the first that differs is {found.first.text_with(' and', '')}")
        lines += [f"  {name}  {a!r}  ->  {b!r}" for name, (a, b) in found.first.metrics.items()]
        if found.deviation is not None:
            points = f"{found.deviation:.2f} points"
            lines.append(f"{SCORE} at the last common epoch differs by {points}")
    elif found.deviation is None:
        lines.append("epochs: none in common")
    else:
        lines.append(f"epochs: identical to the bit over {min(found.num_epochs)}")
    return lines


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = ()
) -> list[Difference]:
    """The names whose values differ; a name that one side lacks counts as empty."""
    names = [name for name in {**old, **new} if name not in ignored]
    found = [Difference(name, str(old.get(name, "")), str(new.get(name, ""))) for name in names]
    return [each for each in found if each.old != each.new]


def first_difference(old: Sequence[Epoch], new: Sequence[Epoch]) -> EpochDifference | None:
    """The first epoch of both with a digest or a metric that is not the same to the last bit."""
    later = {epoch.epoch: epoch for epoch in new}
    for epoch in old:
        other = later.get(epoch.epoch, Epoch(epoch.epoch))
        bits, now_bits = epoch.digests, other.digests
        digests = [key for key in bits if now_bits.get(key, bits[key]) != bits[key]]
        metrics = {}
        for name, value in epoch.metrics.items():
            now = other.metrics.get(name, value)
            if name.endswith(("top1", "top5")):  # which rbnn-tune 0.1 recorded with all digits
                value, now = round(value, PERCENT_DIGITS), round(now, PERCENT_DIGITS)
            both_nan = math.isnan(value) and math.isnan(now)
            if not name.startswith(NOT_OF_THE_RUN) and value != now and not both_nan:
                metrics[name] = (value, now)
        if digests or metrics:
            return EpochDifference(epoch.epoch, tuple(digests), metrics)
    return None


def final_deviation(old: Sequence[Epoch], new: Sequence[Epoch]) -> float | None:
    """|difference| of val/top1 (points) at the last epoch of both; None where there is none."""
    before = {each.epoch: each.metrics[SCORE] for each in old if SCORE in each.metrics}
    after = {each.epoch: each.metrics[SCORE] for each in new if SCORE in each.metrics}
    common = before.keys() & after.keys()
    return abs(before[max(common)] - after[max(common)]) if common else None


def _relative(old: float, new: float) -> float:
    size = max(abs(old), abs(new))
    return abs(old - new) / size if math.isfinite(old) and math.isfinite(new) and size else math.inf
