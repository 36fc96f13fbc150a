"""`rbnn stop`: asks the process that conducts a sweep, waits for its end, and says when it has to
give up waiting.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tune.cli.ending import stop_sweep
from tune.sweep.folder import Record, SweepFolder
from tune.tracking.mirror import Tracker

CONDUCTOR = """
import sys
from pathlib import Path
from tune.sweep.folder import SweepFolder
folder = SweepFolder(Path(sys.argv[1]))
with folder.conducting():
    print("conducts", flush=True)
    while sys.argv[2] == "obeys" and not folder.stop_file.exists():
        pass
    if sys.argv[2] != "obeys":
        input()
    folder.end_session("stopped", "stopped by rbnn stop")
"""


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    made = SweepFolder(tmp_path / "mine")
    made.directory.mkdir()
    made.write(Record("mine", state="finished"))
    return made


@pytest.fixture
def no_store() -> Callable[[str], Tracker]:
    def refuse(uri: str) -> Tracker:
        raise AssertionError("a living sweep's store is its own process's matter")

    return refuse


def conductor(folder: SweepFolder, manner: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONDUCTOR, str(folder.directory), manner]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "conducts\n"
    return process


def test_a_running_sweep_is_asked_and_waited_for(
    folder: SweepFolder, no_store: Callable[[str], Tracker]
) -> None:
    with conductor(folder, "obeys") as process:
        assert stop_sweep(folder, no_store) == (
            True,
            f"sweep mine stopped; go on with it: rbnn resume {folder.directory}",
        )
        process.communicate(timeout=30)
    assert folder.state == "stopped"


def test_a_sweep_that_does_not_end_is_not_called_stopped(
    folder: SweepFolder, no_store: Callable[[str], Tracker]
) -> None:
    with conductor(folder, "does not listen") as process:
        ended, sentence = stop_sweep(folder, no_store, wait_s=0.0)
        assert not ended and "still runs after 0 s" in sentence and folder.stop_file.exists()
        process.communicate("\n", timeout=30)


def test_a_sweep_that_has_ended_is_left_alone(
    folder: SweepFolder, no_store: Callable[[str], Tracker]
) -> None:
    assert stop_sweep(folder, no_store) == (True, "sweep mine has ended already: finished")
    assert not folder.stop_file.exists()
