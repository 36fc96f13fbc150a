"""A run's epochs on disk, one line each: what its process reported survives whoever was listening.

An epoch is appended after its checkpoint is written and before anybody is told, so that after a
kill the journal lacks at most the epoch of last.ckpt, which holds that epoch's metrics itself.
`time_ms` (since 1970) is when the epoch was written: trackers show the epoch at that time.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rbnn.files import write_atomically

JOURNAL = "metrics.jsonl"
DIGEST = "digest"
PLAIN = ("lr", "t", "k", DIGEST)


class Journal:
    """metrics.jsonl of a run's folder. Epochs (0-based) rise by one from 0, each written once."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / JOURNAL

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What it holds now, whichever process appended it: each epoch once and in order."""
        found: list[dict[str, Any]] = []
        for row in read_lines(self.file):
            if row.get("epoch") == len(found):
                found.append(row)
        return found

    @property
    def last_epoch(self) -> int:
        """The last epoch that it holds, -1 for none."""
        return len(self.rows) - 1

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one epoch's metrics through to the disk."""
        if metrics["epoch"] == len(self.rows):
            append_line(self.file, metrics)

    def cut(self, num_epochs: int) -> None:
        """Keep the first epochs alone."""
        lines = [json.dumps(row) + "\n" for row in self.rows[:num_epochs]]
        write_atomically(self.file, "".join(lines))

    def complete(self) -> bool:
        """Take over last.ckpt's epoch where a kill came before its line; returns whether it did."""
        from rbnn.checkpoint import load
        from rbnn.engine import LAST

        checkpoint = self.file.with_name(LAST)
        metrics = load(checkpoint).metrics if checkpoint.is_file() else {}
        if not metrics or metrics["epoch"] != len(self.rows):
            return False
        self.append(metrics)
        return True


def append_line(file: Path, values: dict[str, Any]) -> None:
    """Append a line of JSON, with its time, through to the disk; a torn line before it is ended."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({**values, "time_ms": int(time.time() * 1000)}).encode() + b"\n"
    with file.open("a+b") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            line = line if out.read(1) == b"\n" else b"\n" + line
        out.write(line)
        out.flush()
        os.fsync(out.fileno())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, [] where there is none; a torn line is left out."""
    found = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        with suppress(ValueError):
            row = json.loads(line)
            found += [row] if isinstance(row, dict) else []
    return found


def epoch_metrics(values: dict[str, Any]) -> dict[str, Any]:
    """The loop's own metrics in an epoch's values, without the bookkeeping of Ray."""
    return {
        name: value
        for name, value in values.items()
        if name in PLAIN or ("/" in name and not name.startswith("config/"))
    }


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The metrics in a row that are no digests."""
    found = epoch_metrics(row).items()
    return {name: float(value) for name, value in found if not name.startswith(DIGEST)}


def digests(row: dict[str, Any]) -> dict[str, str]:
    """Those of the network's bits in a row, by name."""
    return {name: str(value) for name, value in row.items() if name.startswith(DIGEST)}
