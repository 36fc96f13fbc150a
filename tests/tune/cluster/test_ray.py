"""The Ray that is used: addresses, what its processes are told, and the code that travels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from rbnn.errors import RequestError, RunFailed
from tune.cluster.daemons import ray_processes
from tune.cluster.mps import PIPES
from tune.cluster.ray import CODE, check_port, cluster_address, connected, settings, staged_code

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def said(*arguments: str, code: Path = ROOT) -> list[str]:
    """The words that own_ray.py says, importing the packages at `code`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-W", "ignore", str(HERE / "own_ray.py"), *arguments]
    given = {**kept, "PYTHONPATH": str(code)}
    return subprocess.check_output(command, cwd=HERE, env=given, text=True).split()


def test_ray_s_processes_wait_as_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"OMP_WAIT_POLICY": "ACTIVE", "TUNE_GLOBAL_CHECKPOINT_S": "60"}
    monkeypatch.setattr("os.environ", dict(mine))
    chosen = settings()
    assert chosen.items() >= {**mine, "TUNE_DISABLE_SIGINT_HANDLER": "1"}.items()
    assert "GOMP_SPINCOUNT" not in chosen


def test_addresses_that_no_driver_can_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(RequestError, match="hand the sweep over with --submit --address http://H"):
        cluster_address()
    assert cluster_address("head:6379") == "head:6379"
    with pytest.raises(RequestError, match=r"at 127\.0\.0\.1:1 cannot be used: Connection refused"):
        check_port("127.0.0.1:1", 6379)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens to a Ray that is not started: the environment of its start, its end."""
    seen: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append(dict(os.environ)))
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append("shut down"))
    monkeypatch.setattr("os.environ", {})
    return seen


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
    numbers: list[int], before: str | None, within: str | None, noted: list[Any]
) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    if before is not None:
        os.environ[name] = before
    with connected(gpus=numbers):
        assert os.environ.get(name) == before  # what this process sees stays as it is
    assert noted[0].get(name) == within and os.environ.get(name) == before


def test_a_ray_that_does_not_start_is_told_in_one_line(
    noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> None:
        raise Exception("The current node timed out\nduring startup")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunFailed, match="start: The current node timed out"), connected():
        pass


def test_a_ray_started_here_is_served_by_mps_until_it_has_ended(
    noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def served(wanted: bool) -> Iterator[dict[str, str]]:
        noted.append(wanted)
        yield {PIPES: "/pipes"}
        noted.append("ended")

    monkeypatch.setattr("tune.cluster.ray.served", served)
    with connected(mps=True):
        assert PIPES not in os.environ
    wanted, environment, *ends = noted
    assert wanted and environment[PIPES] == "/pipes" and ends == ["shut down", "ended"]


def test_rays_sessions_lie_where_their_sockets_can_and_its_token_needs_no_home(
    tmp_path: Path, noted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, used in (("/tmp", None), ("/no/such", "/tmp"), (f"/{'long' * 20}", "/tmp")):
        monkeypatch.setattr("os.environ", {"TMPDIR": folder, "HOME": "/proc/none"})
        with connected():
            assert os.environ["TMPDIR"] == folder and "RAY_TMPDIR" not in os.environ
        assert noted[-2].get("RAY_TMPDIR") == used and len(noted[-2]["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path)})
    with connected():
        assert "RAY_AUTH_TOKEN" not in noted[-1]


@pytest.mark.parametrize("chosen", ["", "3"])
def test_its_workers_keep_the_niceness_of_this_process_unless_the_user_chose(
    chosen: str, noted: list[Any]
) -> None:
    os.environ |= {"RAY_worker_niceness": chosen} if chosen else {}
    with connected():
        assert noted[0]["RAY_worker_niceness"] == (chosen or "0")


@pytest.mark.slow
def test_a_trial_competes_as_its_sweep_does_and_rays_daemons_are_apart() -> None:
    sweep, trial, *daemons, num_near = said("start")
    assert trial == sweep and daemons == ["gcs_server", "raylet"] and num_near == "0"


def test_no_session_has_no_daemons() -> None:
    assert ray_processes("") == [] == ray_processes("/no/such/session")


def test_the_code_that_travels_is_complete_and_nothing_else() -> None:
    with staged_code() as folder:
        assert {entry.name for entry in folder.iterdir()} == set(CODE)
        assert not list(folder.rglob("__pycache__"))
        place, *counts = said(code=folder)
        assert place.startswith(str(folder)) and all(int(count) > 0 for count in counts)
    assert not folder.exists()
