"""Processes that outlive the command which started them, and that a later command ends: by id and
start time, never by name.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Process:
    """A process that leads its own group. `created`: when it began, so that another that came to
    have its id is let alone.
    """

    name: str
    pid: int
    created: float

    @classmethod
    def start(
        cls, name: str, command: list[str], environment: dict[str, str], log: Path, folder: Path
    ) -> Process:
        """Start a command on its own, away from this terminal, its output going to `log`."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        child.returncode = (
            0  # it is nobody's child from here on: Popen would warn that it still runs
        )
        found = _find(child.pid)
        return cls(name, child.pid, found.create_time() if found else 0.0)

    @property
    def alive(self) -> bool:
        found = _find(self.pid)
        return found is not None and found.create_time() == self.created

    def end(self) -> None:
        """End it with all of its group: asked first, killed after STOP_TIMEOUT_S."""
        for request in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT_S
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, request)
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.05)


def _find(pid: int) -> Any:
    """psutil's view of a process, None where it is gone or waits to be reaped only."""
    importlib.import_module("ray")  # brings psutil along, in a folder of its own
    psutil = importlib.import_module("psutil")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else found
    except psutil.NoSuchProcess:
        return None
