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
from tune.cluster.ray import (
    CODE,
    check_port,
    cluster_address,
    connected,
    settings,
    staged_code,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def said_by(script: str, code: Path = ROOT, **environment: str) -> list[str]:
    """The words that a script beside this file says, importing the packages at `code`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-W", "ignore", str(HERE / script)]
    given = {**kept, "PYTHONPATH": str(code), **environment}
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
    given = {} if before is None else {name: before}
    monkeypatch.setattr("os.environ", dict(given))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append(os.environ.get(name)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected(gpus=numbers):
        assert os.environ.get(name) == before  # what this process sees stays as it is
    assert seen == [within] and os.environ.get(name) == before


def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise Exception("The current node timed out\nduring startup")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(RunFailed, match="start: The current node timed out"), connected():
        pass


def test_a_ray_started_here_is_served_by_mps_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    @contextmanager
    def served(wanted: bool) -> Iterator[dict[str, str]]:
        seen.append(wanted)
        yield {PIPES: "/pipes"}
        seen.append("ended")

    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr("tune.cluster.ray.served", served)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.append(os.environ.get(PIPES)))
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append("shut down"))
    with connected(mps=True):
        assert PIPES not in os.environ
    assert seen == [True, "/pipes", "shut down", "ended"]


def test_rays_sessions_lie_where_their_sockets_can_and_its_token_needs_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: seen.update(os.environ))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for folder, used in (("/tmp", None), ("/no/such", "/tmp"), (f"/{'long' * 20}", "/tmp")):
        monkeypatch.setattr("os.environ", {"TMPDIR": folder, "HOME": "/proc/none"})
        seen.clear()
        with connected():
            assert os.environ["TMPDIR"] == folder and "RAY_TMPDIR" not in os.environ
        assert seen.get("RAY_TMPDIR") == used and len(seen["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path)})
    seen.clear()
    with connected():
        assert "RAY_AUTH_TOKEN" not in seen


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "added"), [("", 0), ("3", 3)])
def test_a_trial_competes_as_its_sweep_does_unless_the_user_chose_and_daemons_are_apart(
    chosen: str, added: int
) -> None:
    environment = {"RAY_worker_niceness": chosen} if chosen else {}
    sweep, trial, *daemons, num_near = said_by("own_ray.py", **environment)
    assert int(trial) == min(int(sweep) + added, 19)
    assert daemons == ["gcs_server", "raylet"] and num_near == "0"


def test_no_session_has_no_daemons() -> None:
    assert ray_processes("") == [] == ray_processes("/no/such/session")


def test_the_code_that_travels_is_complete_and_nothing_else() -> None:
    with staged_code() as folder:
        assert {entry.name for entry in folder.iterdir()} == set(CODE)
        assert not list(folder.rglob("__pycache__"))
        place, *counts = said_by("counts.py", folder)
        assert place.startswith(str(folder)) and all(int(count) > 0 for count in counts)
    assert not folder.exists()
