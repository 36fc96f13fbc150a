"""A trial's epochs on disk, one line each: what its process reported survives whoever was
listening.

A trial appends an epoch after the epoch's checkpoint is written and before anybody is told, so that
after a kill the journal lacks at most the epoch of last.ckpt, which holds that epoch's metrics
itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rbnn.checkpoint import load
from rbnn.engine import LAST

JOURNAL = "metrics.jsonl"


class Journal:
    """metrics.jsonl in a trial's folder. Epochs (0-based) rise by one from 0; one that is there is
    not written again.
    """

    def __init__(self, directory: Path) -> None:
        self.file = directory / JOURNAL
        self.rows = read_rows(self.file)

    @property
    def last_epoch(self) -> int:
        """The last epoch that it holds, -1 for none."""
        return self.rows[-1]["epoch"] if self.rows else -1

    def append(self, metrics: dict[str, Any]) -> None:
        """Write one epoch's metrics through to the disk."""
        if metrics["epoch"] <= self.last_epoch:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            torn = file.tell() > 0 and not self._ends_with_newline()
            file.write((b"\n" if torn else b"") + json.dumps(metrics).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(metrics)

    def complete(self) -> bool:
        """Take over the epoch of last.ckpt where a kill came between the checkpoint and its line;
        returns whether it did.
        """
        checkpoint = self.file.with_name(LAST)
        metrics = load(checkpoint).metrics if checkpoint.is_file() else {}
        if not metrics or metrics["epoch"] != self.last_epoch + 1:
            return False
        self.append(metrics)
        return True

    def _ends_with_newline(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The epochs of a journal file in order, [] where there is none; a line torn by a kill is left
    out.
    """
    rows: list[dict[str, Any]] = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and row.get("epoch") == len(rows):
            rows.append(row)
    return rows
