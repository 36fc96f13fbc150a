"""Shared by the tests of tune: MLflow's database without the wait for it, the file in which Ray
keeps why a trial failed, and a sweep in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tune.tracking.reader import RunReader

ROOT = Path(__file__).resolve().parents[2]
TINY_SWEEP_TIMEOUT_S = 240


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts an empty database of MLflow's, which takes seconds to make, into a folder; its URI."""
    made = tmp_path_factory.mktemp("made") / "mlflow.db"
    RunReader.open(f"sqlite:///{made}", create=True)

    def put(folder: Path) -> str:
        return f"sqlite:///{shutil.copy(made, folder)}"

    return put


@pytest.fixture
def error_file(tmp_path: Path) -> Callable[[BaseException], Path]:
    """Writes an error raised in a trial as Ray Tune does; returns the file."""
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    def write(cause: BaseException) -> Path:
        file, said = tmp_path / "error.pkl", f"Traceback ...\n{type(cause).__name__}: {cause}"
        file.write_bytes(cloudpickle.dumps(RayTaskError("train", said, cause)))
        return file

    return write


@pytest.fixture(scope="session")
def tiny_sweep() -> Callable[[Path, str], tuple[int, str]]:
    """Runs tiny_sweep.py in a folder to its end: its exit status, and what it said.

    Its output goes to a file: with a pipe, whoever outlives a killed sweep would be waited for.
    """
    outside = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in outside}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    script = str(Path(__file__).with_name("tiny_sweep.py"))

    def run(folder: Path, name: str) -> tuple[int, str]:
        log = folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", script, str(folder), name],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(TINY_SWEEP_TIMEOUT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, log.read_text()

    return run
