"""Measuring: alternatives take turns round by round, and a row is the ratio of their figures in the
same round.

A ratio is always ours / baseline of a cost (seconds, bytes): below 1, ours is cheaper. What slows
the machine for a while slows both sides of a round, so the median of the rounds' ratios says more
than the figures themselves.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table. ratios: by round, ours / baseline; empty where the row was skipped,
    `note` saying why.

    ours, theirs: the medians of the two costs, in `unit`.
    """

    name: str
    baseline: str
    ratios: tuple[float, ...] = ()
    ours: float = 0.0
    theirs: float = 0.0
    unit: str = "s"
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Setting:
    """How the benchmarks run. full: all networks, more rounds. folder: for files, removed
    afterwards. kind: of the devices to use, "" for all.
    """

    full: bool
    folder: Path
    kind: str = ""

    @property
    def rounds(self) -> int:
        return 9 if self.full else 3

    @property
    def devices(self) -> list[torch.device]:
        """The CPU, and a GPU where there is one."""
        found = [torch.device("cpu")] + [torch.device("cuda", 0)] * torch.cuda.is_available()
        return [device for device in found if self.kind in ("", device.type)]


@dataclass(frozen=True)
class Benchmark:
    """What measures rows. needs: packages without which it is skipped; full_only: left out of the
    short form.
    """

    name: str
    baseline: str
    run: Callable[[Setting], list[Row]]
    needs: tuple[str, ...] = ()
    full_only: bool = False

    def rows(self, setting: Setting) -> list[Row]:
        """The rows, or one that says why there are none."""
        missing = [package for package in self.needs if not installed(package)]
        if missing:
            return [
                Row(self.name, self.baseline, note=f"skipped: {', '.join(missing)} not installed")
            ]
        return self.run(setting)


def installed(package: str) -> bool:
    """Whether a module of that name, dotted where need be, could be imported; nothing is imported
    but its parents.
    """
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def compared(
    name: str,
    baseline: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str = "s",
    note: str = "",
) -> Row:
    """The row of two costs by round."""
    ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
    return Row(
        name, baseline, ratios, statistics.median(ours), statistics.median(theirs), unit, note
    )


def alternate(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    device: torch.device | None = None,
    repeats: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each action by round, in the order A B C A B C ...; each is called once beforehand
    to warm up.

    repeats: calls per round, averaged. device: whose queued work is waited for.
    """
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            _wait(device)
            began = time.perf_counter()
            for _ in range(repeats):
                action()
            _wait(device)
            seconds[name].append((time.perf_counter() - began) / repeats)
    return seconds


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
