"""`rbnn serve` for a team: a sweep handed over, followed, recorded, stopped; mistakes; its end."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.tune.workplace import BASE, TIMEOUT_S, Workplace
from tune.process import Process
from tune.serve.head import RayHead, Served, read_state
from tune.tracking.reader import RunReader

SPACE = {"lr": {"log": [0.01, 0.1]}}
PORTS = ("--mlflow-port", "5700", "--dashboard-port", "8365", "--ray-port", "6479")
BIG_BATCHES = {**BASE, "batch_size": 700, "threads": 1}


def test_what_runs_is_read_back_also_as_it_was_written_with_times_of_start(tmp_path: Path) -> None:
    own = Process.current()
    served = Served("jobs", "join", "mlflow", "store", "home", ("ann",), {"ray": own})
    served.write(tmp_path)
    assert read_state(tmp_path) == served and served.alive
    values = json.loads((tmp_path / "serve.json").read_text())
    created = psutil.Process().create_time()
    values["processes"] = [{"name": "ray", "pid": os.getpid(), "created": created}]
    (tmp_path / "serve.json").write_text(json.dumps(values))
    assert read_state(tmp_path) == served


def test_a_head_leaves_trials_their_niceness_and_tells_sweeps_of_its_own_store_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = {"RAY_ADDRESS": "elsewhere", "MLFLOW_TRACKING_TOKEN": "another's"}
    monkeypatch.setattr("os.environ", {**others, "PATH": "/bin"})
    environment = RayHead("127.0.0.1", 1, 2, Path("home")).environment({"MLFLOW_TRACKING_URI": "x"})
    assert environment["RAY_worker_niceness"] == "0" and environment["MLFLOW_TRACKING_URI"] == "x"
    assert environment["PATH"].endswith(":/bin") and not set(others) & set(environment)


@dataclass
class Team(Workplace):
    """A machine with `rbnn serve` running, and the command `rbnn` on another one that has its
    addresses and token.
    """

    given: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONWARNINGS": "ignore", **self.given}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Served on this machine alone, with users and a token of its own; ended after the tests,
    whatever they did.
    """
    folder = tmp_path_factory.mktemp("team")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    team = Team(folder, {**token, "HOME": str(folder)})
    state = ("--state", "state")
    try:
        given = "--home", "home", "--users", "ann", "--num-cpus", "2"
        told = team.run("serve", *state, *given, *PORTS)
        addresses = re.search(r"export RAY_ADDRESS=(\S+) MLFLOW_TRACKING_URI=(\S+)", told)
        assert addresses and token["RAY_AUTH_TOKEN"] in told
        password = (folder / "state" / "passwords" / "ann").read_text().strip()
        assert password not in told
        team.given |= {
            "RAY_ADDRESS": addresses[1],
            "MLFLOW_TRACKING_URI": addresses[2],
            "MLFLOW_TRACKING_USERNAME": "ann",
            "MLFLOW_TRACKING_PASSWORD": password,
        }
        yield team
    finally:
        team.run("serve", "--stop", *state)


@pytest.mark.slow
def test_a_sweep_is_handed_over_followed_recorded_and_stopped(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"base": BIG_BATCHES, "space": SPACE, "scheduler": "none"}
    file = team.sweep_file(**keys, trials=500, concurrent=1)
    submitted = team.run("sweep", file, "--name", "handed", "--submit")
    assert submitted.startswith("handed\n") and "rbnn logs -f handed" in submitted
    with team.start("logs", "-f", "handed") as follower:
        assert follower.stdout
        heard = [follower.stdout.readline()]
        while "trial 0 complete after 2 epochs" not in heard[-1]:
            heard.append(follower.stdout.readline())
            assert heard[-1], heard
        assert json.loads(team.run("status", "handed", "--json"))["state"] == "RUNNING", heard
        assert "job handed on" in team.run("stop", "handed")
        heard.append(follower.stdout.read())
        assert follower.wait(TIMEOUT_S) == 0
    assert team.given["MLFLOW_TRACKING_PASSWORD"] not in "".join(heard)
    assert ": stopped, started" in team.run("status", "handed")
    record = team.folder / "home" / "result" / "handed" / "sweep.json"
    assert json.loads(record.read_text())["state"] == "stopped"

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, team.given[name])
    reader = RunReader.open(team.given["MLFLOW_TRACKING_URI"])
    trials = reader.children(reader.sweep_run("handed").info.run_id)
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}
    first = next(run for run in trials if run.data.tags["rbnn.trial"] == "0")
    points = reader.client.get_metric_history(first.info.run_id, "val/top1")
    assert first.info.status == "FINISHED" and len(points) == 2


@pytest.mark.slow
def test_mistakes_with_a_team_are_one_line(team: Team) -> None:
    stranger = Team(team.folder, {**team.given, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    said = stranger.run("status", "--address", team.given["RAY_ADDRESS"], status=2)
    assert "it refuses this machine's token; copy the head's ~/.ray/auth_token" in said
    assert said.count("\n") == 1
    said = team.run("serve", "--state", "state", "--database", "sqlite:///other.db", status=2)
    assert "run already; end them with rbnn serve --stop" in said


@pytest.mark.slow
def test_serve_stop_ends_what_was_started(team: Team) -> None:
    served = read_state(team.folder / "state")
    assert served and len(served.processes) == 2
    assert all(process.alive for process in served.processes.values())
    assert "ended MLflow at" in team.run("serve", "--stop", "--state", "state")
    assert not any(process.group() for process in served.processes.values())
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        host, port = team.given[name].removeprefix("http://").split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
