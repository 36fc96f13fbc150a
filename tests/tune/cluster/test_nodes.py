"""A cluster of separate raylets: a sweep survives a node's death; what can never be placed is
refused.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tests.tune.workplace import BASE, TIMEOUT_S, Workplace
from tune.sweep.folder import SweepFolder

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
PYTHON = (sys.executable, "-W", "ignore")
NUM_TRIALS, NUM_EPOCHS = 6, 4
FILE = {
    "base": {**BASE, "epochs": NUM_EPOCHS, "threads": 1},
    "space": {"lr": {"log": [0.01, 0.1]}},
    "scheduler": "none",
    "trials": NUM_TRIALS,
    "confirm_seeds": 0,
}


@dataclass
class Host:
    """The cluster in its own process (cluster_host.py), and what a process needs to join it."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    address: str
    head: str

    def kill(self, node: str) -> None:
        print("kill", node, file=self.process.stdin, flush=True)
        assert self.process.stdout and self.process.stdout.readline() == "killed\n"

    def start_sweep(self, folder: Path, **keys: Any) -> subprocess.Popen[str]:
        """cluster_sweep.py on that cluster, running."""
        folder.mkdir(exist_ok=True)
        (folder / "sweep.yaml").write_text(yaml.safe_dump({**FILE, **keys}))
        script = str(HERE / "cluster_sweep.py")
        command = [*PYTHON, script, str(folder), "spread", self.address, self.head]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=self.environment, text=True, **pipes)


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A head and two nodes of a core each, with a token of their own."""
    folder = tmp_path_factory.mktemp("host")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**Workplace(folder).environment, **token}
    command = [*PYTHON, str(HERE / "cluster_host.py")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, text=True, stderr=log, **pipes) as process,
    ):
        assert process.stdin and process.stdout
        said = process.stdout.readline()
        assert said.startswith("{"), (folder / "log").read_text()
        yield Host(process, environment, **json.loads(said))
        process.stdin.close()
        process.wait(TIMEOUT_S)


REFUSED = {
    r"storage_path is missing, and trials run on 3 nodes": {},
    r"gpus_per_trial is 2, and no node of the cluster at \S+ has more than 0 GPU\(s\)": {
        "storage_path": "shared", "base": {**BASE, "gpus": ""}, "gpus_per_trial": 2
    },
}  # fmt: skip


def test_what_a_cluster_can_never_run_is_refused_and_a_nodes_death_costs_no_trial(
    host: Host, tmp_path: Path
) -> None:
    """One test, as the cluster takes long to start."""
    for said, keys in REFUSED.items():
        process = host.start_sweep(tmp_path / "refused", **keys)
        output = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == 2 and output.count("\n") == 1, output
        assert re.search(said, output), output

    process = host.start_sweep(tmp_path, storage_path="shared", concurrent=3)
    victim = tmp_path / "victim"
    while not (victim.is_file() and victim.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    host.kill(victim.read_text())
    output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output

    lines = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    trained = Counter((int(number), int(epoch)) for number, epoch, _ in lines)
    once = [(number, epoch) for number in range(NUM_TRIALS) for epoch in range(NUM_EPOCHS)]
    assert trained == Counter(once), "an epoch was lost, or trained again"
    processes = Counter(number for number, _ in {(number, pid) for number, _, pid in lines})
    assert sorted(processes.values()) == [1] * (NUM_TRIALS - 1) + [2]

    directory = tmp_path / "shared" / "spread"
    study = optuna.load_study(study_name="spread", storage=f"sqlite:///{directory}/optuna.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * NUM_TRIALS
    assert SweepFolder(directory).state == "finished"
    assert len(list((directory / "ray").rglob("error.txt"))) <= 1, "Ray knows of one accident"

    place = Workplace(tmp_path)
    runs = place.children("spread")
    assert [run.data.tags["rbnn.trial"] for run in runs] == [str(n) for n in range(NUM_TRIALS)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        points = place.history(run.info.run_id)["val/top1"]
        assert [step for step, _ in points] == list(range(NUM_EPOCHS))
