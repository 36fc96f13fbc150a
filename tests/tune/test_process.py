"""Processes: told apart by number and start, read back from files, ended with their group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tune.process import Process

ROOT = Path(__file__).resolve().parents[2]


def started(log: Path, kind: str) -> Process:
    command = [sys.executable, "-W", "ignore", "-m", "tests.tune.processes", kind]
    return Process.start(command, dict(os.environ), log, ROOT)


def first_line(log: Path, of: Process) -> str:
    while not log.read_text().endswith("\n"):
        assert of.alive
    return log.read_text()


def test_the_text_is_that_of_files_written_so_far() -> None:
    """Host, number, and the 22nd field of the kernel's record, which files held from the first."""
    current = Process.current()
    stat = Path("/proc/self/stat")
    if stat.is_file():
        assert current.started == stat.read_text().rpartition(")")[2].split()[19]
    assert Process.of(str(current)) == current and current.here and current.alive
    assert Process.of("no process") is None and Process.of("a b c") is None


def test_the_clock_being_set_makes_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    before, booted = Process.current(), psutil.boot_time()
    for module in ("psutil", "psutil._pslinux"):
        monkeypatch.setattr(f"{module}.boot_time", lambda: booted + 3600)
    assert before.alive and Process.current() == before


def test_one_that_waits_to_be_reaped_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        begun = Process.at(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert begun.started and not begun.alive and begun.group() == []
    assert not begun.alive and Process.at(child.pid).started == ""


def test_its_group_is_ended_with_it_and_another_of_its_number_is_let_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    begun = started(log, "waits")
    child = Process.at(int(first_line(log, begun)))
    other = replace(begun, started="1")
    other.end()
    assert begun.alive and child.alive and not other.alive
    os.kill(begun.pid, signal.SIGKILL)  # what outlives the first of its group is ended too
    assert begun.wait() == -9 and child.alive
    begun.end()
    assert not begun.alive and not child.alive


def test_one_that_does_not_hear_is_killed_after_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    begun = started(log, "deaf")
    first_line(log, begun)
    begun.end(limit_s=0.2)
    assert begun.wait() == -9 and not begun.alive
