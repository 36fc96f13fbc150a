"""How two recorded runs differ: options, environment, data, and the first epoch at
which they part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rbnn.recipe import FIELDS
from tune.run.record import RunRecord
from tune.run.verdict import (
    Difference,
    EpochDifference,
    differences,
    final_deviation,
    first_difference,
)


@dataclass(frozen=True)
class RunDifference:
    """Two runs beside each other. deviation: of val/top1 (points) at the last epoch
    that both hold.
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
    """The differences of two records. Options that change no result (folders, printing) are listed
    apart.
    """
    changed = differences(old.recipe, new.recipe)
    data = differences(_flat(old.data), _flat(new.data))
    return RunDifference(
        runs=(old.run_id, new.run_id),
        options=[each for each in changed if FIELDS[each.name].metadata["affects"] != "nothing"],
        folders=[each for each in changed if FIELDS[each.name].metadata["affects"] == "nothing"],
        environment=differences(old.environment, new.environment),
        data=data,
        num_epochs=(len(old.epochs), len(new.epochs)),
        first=first_difference(old.epochs, new.epochs),
        deviation=final_deviation(old.epochs, new.epochs),
    )


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    sizes = {f"{split} images": size for split, size in data.get("sizes", {}).items()}
    return {"name": data.get("name", ""), "fingerprint": data.get("fingerprint", ""), **sizes}


def lines_of(found: RunDifference) -> list[str]:
    """The differences as text."""
    lines = [
        f"{found.runs[0]}  {found.num_epochs[0]} epochs",
        f"{found.runs[1]}  {found.num_epochs[1]} epochs",
    ]
    sections: list[tuple[str, Sequence[Difference]]] = [
        ("options", found.options),
        ("options that change no result", found.folders),
    ]
    sections += [("environment", found.environment), ("data", found.data)]
    for title, rows in sections:
        lines.append(f"{title}: {'the same' if not rows else ''}".rstrip())
        width = max((len(row.name) for row in rows), default=0)
        lines += [f"  {row.name:{width}}  {row.old or '-'}  ->  {row.new or '-'}" for row in rows]
    if found.deviation is None and found.first is None:
        lines.append("epochs: none in common")
    elif found.first is None:
        lines.append(f"epochs: identical to the bit over {min(found.num_epochs)}")
    else:
        lines.append(
            "epochs: the first that differs is "
            f"{found.first.text.replace(' recorded,', ' and').replace(' now', '')}"
        )
        for name, (old, new) in found.first.metrics.items():
            lines.append(f"  {name}  {old!r}  ->  {new!r}")
        if found.deviation is not None:
            lines.append(
                f"val/top1 at the last common epoch differs by {found.deviation:.2f} points"
            )
    return lines
