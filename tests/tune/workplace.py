"""A working directory in which tests run the command `rbnn` in its own process, and read what its
stores hold afterwards.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from mlflow.entities import Run

from tune.tracking.reader import RunReader

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
BASE: dict[str, Any] = {"dataset": "digits", "epochs": 2, "batch_size": 64, "batch_size_test": 397}
BASE |= {"lr": 0.02, "Tmin": 0.3, "Tmax": 3, "gpus": "none"}


@dataclass
class Workplace:
    """A working directory with its own store, and the command `rbnn` run in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        outside = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONWARNINGS")
        kept = {name: value for name, value in os.environ.items() if name not in outside}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, running, in a process group of its own as a terminal makes one."""
        command = [sys.executable, "-m", "tune.cli", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        place: dict[str, Any] = {"cwd": self.folder, "env": self.environment}
        return subprocess.Popen(command, text=True, start_new_session=True, **place, **pipes)

    def run(self, *arguments: str, status: int = 0) -> str:
        """The command's output; it must end with `status`."""
        process = self.start(*arguments)
        output = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == status, output
        return output

    def sweep_file(self, **keys: Any) -> str:
        path = self.folder / "look.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, "confirm_seeds": 0, **keys}))
        return path.name

    def reader(self) -> RunReader:
        return RunReader.open(f"sqlite:///{self.folder}/mlflow.db")

    def children(self, sweep: str) -> list[Run]:
        """The trials of a sweep by number."""
        reader = self.reader()
        found = reader.children(reader.sweep_run(sweep).info.run_id)
        return sorted(found, key=lambda run: int(run.data.tags["rbnn.trial"]))

    def history(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Metric -> (step, value) in order, without the times; and the digests of the weights."""
        reader = self.reader()
        names = reader.client.get_run(run_id).data.metrics
        found = {name: points_of(reader, run_id, name) for name in names if name[:5] != "time/"}
        digests = reader.digests_of(run_id).items()
        found["digest"] = [(epoch, int(bits["digest"], 16)) for epoch, bits in digests]
        return found

    def artifacts(self, run_id: str) -> set[str]:
        client = self.reader().client
        found = [*client.list_artifacts(run_id), *client.list_artifacts(run_id, "checkpoints")]
        return {entry.path for entry in found if not entry.is_dir}


def points_of(reader: RunReader, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric as MLflow holds it, so that a point that is there twice shows."""
    points = reader.client.get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in points]


def run_id_in(output: str) -> str:
    """The id of the run that `rbnn train` or `rbnn replay` says it recorded."""
    found = re.search(r"; run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def study(folder: Path, sweep: str) -> optuna.Study:
    storage = f"sqlite:///{folder}/result/{sweep}/optuna.db"
    return optuna.load_study(study_name=sweep, storage=storage)
