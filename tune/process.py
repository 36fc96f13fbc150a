"""A process of some machine, told apart from a later one of the same number by its start time."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """host, number and start time of a process."""

    host: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Process:
        return cls(socket.gethostname(), os.getpid(), start_time(os.getpid()))

    @classmethod
    def of(cls, text: str) -> Process | None:
        """The process that `str` wrote of; None for anything else."""
        parts = text.split()
        if len(parts) != 3 or not parts[1].isdigit():
            return None
        return cls(parts[0], int(parts[1]), parts[2])

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs; only to be asked on its own machine."""
        return start_time(self.pid) == self.started != ""


def start_time(pid: int) -> str:
    """When a process of this machine began; "" where there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
