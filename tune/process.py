"""Processes that are told apart from later ones of the same number, and ended by that alone: never
by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

END_TIMEOUT_S = 20.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True)
class Process:
    """A process of some machine. started: ticks from the machine's boot to its start, as setting
    the clock changes both times that psutil knows; "" for none.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def at(cls, pid: int) -> Process:
        """The process of this machine that has the number now."""
        return cls(socket.gethostname(), pid, _started(pid))

    @classmethod
    def current(cls) -> Process:
        return cls.at(os.getpid())

    @classmethod
    def of(cls, text: str) -> Process | None:
        """The process that `str` wrote of; None for anything else."""
        parts = text.split()
        if len(parts) != 3 or not parts[1].isdigit():
            return None
        return cls(parts[0], int(parts[1]), parts[2])

    @classmethod
    def start(
        cls, command: list[str], environment: dict[str, str], log: Path, folder: Path | None = None
    ) -> Process:
        """Start a command that outlives this process, away from its terminal and at the head of a
        group of its own; its output is added to `log`.
        """
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
        child.returncode = 0  # nobody's child from here on: Popen would warn that it still runs
        return cls.at(child.pid)

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs; only to be asked on its own machine."""
        return self.started != "" and _started(self.pid) == self.started and _runs(self.pid)

    def wait(self) -> int | None:
        """Wait until it has ended; its exit status, where this process started it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).wait()
        return None

    def end(self, limit_s: float = END_TIMEOUT_S) -> None:
        """End all of the group that it leads: asked first, killed after `limit_s`."""
        for request in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + limit_s
            if self.group():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, request)
            while self.group() and time.monotonic() < deadline:
                time.sleep(0.05)

    def group(self) -> list[int]:
        """The numbers of the running processes of the group that it leads, also once it has ended:
        its own number is not given away before.
        """
        if _started(self.pid) not in ("", self.started):
            return []
        return [pid for pid in psutil.pids() if _group_of(pid) == self.pid and _runs(pid)]


def ticks(created: float) -> str:
    """`started` of a process that began at this time in seconds since the epoch, as psutil has it
    now.
    """
    return str(round((created - psutil.boot_time()) * TICKS_PER_S))


def _started(pid: int) -> str:
    try:
        return ticks(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ""


def _runs(pid: int) -> bool:
    """Whether there is such a process, and not only one that waits to be reaped."""
    try:
        return psutil.Process(pid).status() not in DEAD
    except psutil.NoSuchProcess:
        return False


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0
