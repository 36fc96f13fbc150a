"""A cluster of separate raylets: a sweep survives a node's death; what can never be placed or
reached is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import Recipe
from tune.cluster.ray import CODE, check_port, cluster_address, connected, settings, staged_code
from tune.cluster.resources import Capacity, Node
from tune.sweep.placement import place_on_cluster

# MLflow's own code uses what newer versions of its dependencies deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
TIMEOUT_S = 120
BASE = {
    "dataset": "digits",
    "epochs": 4,
    "batch_size": 64,
    "lr": 0.02,
    "Tmin": 0.3,
    "Tmax": 3,
    "gpus": "none",
    "threads": 1,
}
GPU_NODES = Capacity((Node(8, 0), Node(16, 4), Node(16, 2)), "the cluster at x")
CPU_NODES = Capacity((Node(4, 0), Node(3, 0)), "the cluster at x")


def baseline(**values: Any) -> Recipe:
    return Recipe(**{"dataset": "digits", "model": "resnet20_1w1a", **values})


def test_trials_of_one_worker_get_a_gpu_and_a_share_of_its_node() -> None:
    placed = place_on_cluster(baseline(), GPU_NODES, gpus_per_trial=0, most_at_once=99)
    assert (placed.gpus, placed.concurrent, placed.recipe.threads) == (1, 6, 4)


def test_a_fraction_of_a_gpu_fits_more_trials_and_a_limit_is_kept() -> None:
    assert (
        place_on_cluster(baseline(), GPU_NODES, gpus_per_trial=0.5, most_at_once=99).concurrent
        == 12
    )
    assert (
        place_on_cluster(baseline(), GPU_NODES, gpus_per_trial=0.6, most_at_once=99).concurrent == 6
    )
    assert (
        place_on_cluster(baseline(), GPU_NODES, gpus_per_trial=0.5, most_at_once=5).concurrent == 5
    )


def test_without_gpus_threads_are_as_many_as_all_trials_can_have_at_once() -> None:
    placed = place_on_cluster(baseline(), CPU_NODES, gpus_per_trial=0, most_at_once=3)
    assert (placed.gpus, placed.concurrent, placed.recipe.threads) == (0, 3, 2)
    assert CPU_NODES.fitting(placed.recipe.threads + 1, 0) < 3


def test_workers_of_one_trial_may_lie_on_several_nodes() -> None:
    placed = place_on_cluster(
        baseline(train_workers=6), GPU_NODES, gpus_per_trial=0, most_at_once=99
    )
    assert (placed.gpus, placed.concurrent, placed.recipe.threads) == (6, 1, 4)


@pytest.mark.parametrize(
    ("values", "gpus", "concurrent", "said"),
    [
        ({}, 5, 0, "gpus_per_trial is 5, and no node of the cluster at x has more than 4 GPU"),
        (
            {"gpus": "none"},
            1,
            0,
            "gpus_per_trial is 1, and no node of the cluster at x has more than 0 GPU",
        ),
        ({"train_workers": 7}, 0, 0, "gpus_per_trial is 7, .* all nodes together 6"),
        (
            {"gpus": "none", "threads": 17},
            0,
            0,
            "17 thread.* do not fit the cluster at x .*at most 0 do",
        ),
        ({}, 0, 7, "7 trial.* do not fit .*at most 6 do"),
        ({"gpus": "0,1"}, 0, 0, "gpus is '0,1', GPUs of one machine"),
    ],
)
def test_what_can_never_be_placed_is_refused(
    values: dict[str, Any], gpus: float, concurrent: int, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        place_on_cluster(
            baseline(**values),
            GPU_NODES,
            gpus_per_trial=gpus,
            most_at_once=99,
            concurrent=concurrent,
        )


def test_ray_s_processes_wait_as_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "os.environ", {"OMP_WAIT_POLICY": "ACTIVE", "TUNE_GLOBAL_CHECKPOINT_S": "60"}
    )
    chosen = settings()
    assert chosen["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in chosen
    assert (
        chosen["TUNE_GLOBAL_CHECKPOINT_S"] == "60" and chosen["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    )


def test_addresses_that_no_driver_can_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(
        RequestError, match="hand the sweep over with --submit --address http://HEAD:8265"
    ):
        cluster_address()
    assert cluster_address("head:6379") == "head:6379"
    with pytest.raises(
        RequestError, match=r"Ray cluster at 127\.0\.0\.1:1 cannot be used: Connection refused"
    ):
        check_port("127.0.0.1:1", 6379)


@pytest.mark.parametrize(
    ("numbers", "before", "within"),
    [
        ([], None, None),
        ([], "4,5", "4,5"),
        ([2, 3], None, "2,3"),
        ([1, 0], "4,5,6", "5,4"),
        ([1], "GPU-a,GPU-b", "GPU-b"),
    ],
)
def test_a_ray_started_here_sees_the_gpus_of_the_recipe_alone(
    numbers: list[int], before: str | None, within: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, seen = "CUDA_VISIBLE_DEVICES", []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append(os.environ.get(name)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if before is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, before)
    with connected(gpus=numbers):
        assert os.environ.get(name) == before  # what this process sees stays as it is
    assert seen == [within] and os.environ.get(name) == before


def test_the_code_that_travels_is_complete_and_nothing_else(tmp_path: Path) -> None:
    with staged_code() as folder:
        assert {entry.name for entry in folder.iterdir()} == set(CODE)
        assert not list(folder.rglob("__pycache__"))
        script = (
            "import rbnn.recipe as r, tune.sweep.config as s; print(r.__file__, "
            "len(r.recipe_files()), len(s.sweep_files()))"
        )
        env = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        place, *counts = done.stdout.split()
        assert place.startswith(str(folder)) and all(int(count) > 0 for count in counts)
    assert not folder.exists()


@dataclass
class Host:
    """The cluster in its own process (cluster_host.py), and what a process needs to join it."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    address: str
    head: str

    def kill(self, node: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"kill {node}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A head and two nodes of a core each, with a token of their own."""
    outside = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in outside}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**kept, **token, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "cluster_host.py")]
    log = tmp_path_factory.mktemp("host") / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        with process:
            assert process.stdin and process.stdout
            said = process.stdout.readline()
            assert said.startswith("{"), log.read_text()
            yield Host(process, environment, **json.loads(said))
            process.stdin.close()
            process.wait(timeout=TIMEOUT_S)


def start_sweep(host: Host, folder: Path, **keys: Any) -> subprocess.Popen[str]:
    """cluster_sweep.py on that cluster, running."""
    space = {"lr": {"log": [0.01, 0.1]}}
    values = {
        "base": BASE,
        "space": space,
        "scheduler": "none",
        "trials": 6,
        "confirm_seeds": 0,
        **keys,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values))
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(HERE / "cluster_sweep.py"),
        str(folder),
        "spread",
        host.address,
        host.head,
    ]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=host.environment, **given)


def refusal(process: subprocess.Popen[str]) -> str:
    """The one line that a sweep was refused with."""
    output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 2 and output.count("\n") == 1, output
    return output


@pytest.mark.slow
def test_a_sweep_that_this_cluster_can_never_run_is_refused_at_once(
    host: Host, tmp_path: Path
) -> None:
    asked = {
        "gpu": start_sweep(
            host,
            new(tmp_path / "gpu"),
            storage_path="shared",
            base={**BASE, "gpus": ""},
            gpus_per_trial=2,
        ),
        "nowhere": start_sweep(host, new(tmp_path / "nowhere")),
    }
    said = {name: refusal(process) for name, process in asked.items()}
    assert (
        "gpus_per_trial is 2, and no node of the cluster at" in said["gpu"]
        and "has more than 0 GPU(s)" in said["gpu"]
    )
    assert "storage_path is missing, and trials run on 3 nodes" in said["nowhere"]


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_a_sweep_whose_node_dies_ends_with_every_trial_accounted_for(
    host: Host, tmp_path: Path
) -> None:
    import optuna

    from tune.sweep.folder import SweepFolder
    from tune.tracking.mirror import Tracker

    process = start_sweep(host, tmp_path, storage_path="shared", concurrent=3)
    victim = tmp_path / "victim"
    while not (victim.is_file() and victim.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    host.kill(victim.read_text())
    output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output

    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert Counter((number, epoch) for number, epoch, _ in trained) == Counter(
        {(f"{number:04d}", str(epoch)): 1 for number in range(6) for epoch in range(4)}
    ), "an epoch was lost, or trained again"
    assert (
        sum(
            len({pid for other, _, pid in trained if other == number}) == 2
            for number in {line[0] for line in trained}
        )
        == 1
    )

    directory = tmp_path / "shared" / "spread"
    study = optuna.load_study(study_name="spread", storage=f"sqlite:///{directory}/optuna.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
    assert SweepFolder(directory).state == "finished"
    errored = [path.parent.name for path in (directory / "ray").rglob("error.txt")]
    assert len(errored) <= 1, "Ray knows of one accident at most"

    tracker = Tracker.open(uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = tracker.children(tracker.sweep_run("spread").info.run_id)
    assert sorted(run.data.tags["rbnn.trial"] for run in runs) == [
        str(number) for number in range(6)
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        points = tracker.client.get_metric_history(run.info.run_id, "val/top1")
        assert [point.step for point in points] == [0, 1, 2, 3]
