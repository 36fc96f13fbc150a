"""`rbnn serve` and sweeps that are handed over: started, submitted, looked at, stopped and ended as
a user does it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbnn.errors import RequestError
from tune.cluster.ray import jobs_address
from tune.process import Process
from tune.serve.jobs import Jobs, entrypoint, portable, status_lines, travelling_environment
from tune.serve.mlflow import TeamServer, allowed_hosts, kept_secret, user_names
from tune.sweep.config import load_sweep

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 150
BASE = {
    "dataset": "digits",
    "epochs": 2,
    "batch_size": 700,
    "batch_size_test": 397,
    "lr": 0.02,
    "Tmin": 0.3,
    "Tmax": 3,
}
TINY = {
    "base": {**BASE, "gpus": "none", "threads": 1},
    "space": {"lr": {"log": [0.01, 0.1]}},
    "scheduler": "none",
}


def server(folder: Path, **values: Any) -> TeamServer:
    given: dict[str, Any] = {
        "database": "sqlite:///x.db",
        "host": "127.0.0.1",
        "port": 5000,
        "users": (),
    }
    return TeamServer(**{**given, "state": folder / "state", **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"database": "postgresql://ann:hidden@host/x"},
            r"database 'postgresql://ann:\*\*\*@host/x' holds a password",
        ),
        ({"database": "http://host:5000"}, "is a server already"),
        ({"host": "0.0.0.0"}, "host 0.0.0.0 opens the store to the network; give --users"),
        ({"users": ("a b",)}, "users holds 'a b'"),
        ({"users": ("admin",)}, "admin and rbnn-sweeps are taken"),
    ],
)
def test_a_server_that_would_be_open_or_show_a_password_is_refused(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=said) as refusal:
        server(tmp_path, **values)
    assert "hidden" not in str(refusal.value)


def test_a_server_has_no_login_unless_it_has_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "someone's")
    alone, team = (
        server(tmp_path),
        server(tmp_path, host="0.0.0.0", users=user_names(["ann,ben", " ann"]), names=("proxy",)),
    )
    assert (
        "basic-auth" not in alone.command() and "MLFLOW_AUTH_CONFIG_PATH" not in alone.environment()
    )
    assert "basic-auth" in team.command() and team.users == ("ann", "ben")
    environment = team.environment()
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"} & set(environment)
    hosts = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"proxy:5000", "proxy", "localhost:5000", f"{socket.gethostname()}:5000"} <= set(
        hosts
    ) and "*" not in hosts
    assert "http://proxy:5000" in environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    hidden = (
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"],
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"],
    )
    assert not set(hidden) & set(team.command()) and len(set(hidden)) == 2
    again = team.environment()
    assert (
        again["MLFLOW_AUTH_ADMIN_PASSWORD"],
        again["MLFLOW_FLASK_SERVER_SECRET_KEY"],
    ) == hidden, "secrets are kept"
    assert allowed_hosts(["a", "a", "b"], 1) == ["a:1", "a", "b:1", "b"]


def test_a_secret_is_random_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    one, two = kept_secret(tmp_path / "state" / "one"), kept_secret(tmp_path / "state" / "two")
    assert one != two and len(one) >= 20 and kept_secret(tmp_path / "state" / "one") == one
    assert (tmp_path / "state" / "one").stat().st_mode & 0o077 == 0


def test_a_process_is_ended_with_its_group_and_another_of_its_id_is_let_alone(
    tmp_path: Path,
) -> None:
    command = ["bash", "-c", "sleep 1000 & echo $!; wait"]
    begun = Process.start("one", command, dict(os.environ), tmp_path / "log", tmp_path)
    other = Process("other", begun.pid, begun.created - 5)
    assert begun.alive and not other.alive
    other.end()
    assert begun.alive
    while not (tmp_path / "log").read_text():
        pass
    begun.end()
    assert not begun.alive and not Process("child", int((tmp_path / "log").read_text()), 0).alive


def test_a_sweep_file_travels_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"dataset": "digits", "lr": 0.07}))
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({"recipe": "mine.yaml", "space": {"lr": {"log": [0.01, 1]}}})
    )
    file = load_sweep(tmp_path / "sweep.yaml")
    (tmp_path / "mine.yaml").unlink()
    (tmp_path / "travelled.yaml").write_text(yaml.safe_dump(portable(file)))
    assert load_sweep(tmp_path / "travelled.yaml").baseline == file.baseline


def test_the_command_of_a_job_is_one_that_the_command_line_takes(tmp_path: Path) -> None:
    from tune.cli.__main__ import parser

    script = entrypoint("a sweep", ["--results_dir", "/x y"]).replace(
        "exec python -m tune.cli", "exec printf '%s\\n'"
    )
    environment = {**os.environ, "RBNN_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        script,
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    args = parser().parse_args(done.stdout.splitlines())
    assert (args.name, args.results_dir, args.file) == ("a sweep", "/x y", f"{tmp_path}/sweep.yaml")
    assert (tmp_path / "home").is_dir()


def test_what_travels_of_the_environment_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert set(travelling_environment()) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert travelling_environment()["MLFLOW_TRACKING_URI"] == "http://team:5000"
    assert "hidden" not in str(travelling_environment())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hidden@team:5000")
    with pytest.raises(RequestError, match="holds a password") as refusal:
        travelling_environment()
    assert "hidden" not in str(refusal.value)


def test_only_addresses_that_take_jobs_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="address is missing; give --address http://HEAD:8265"):
        Jobs.at()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(RequestError, match="address 'head:6379' does not take jobs"):
        Jobs.at()
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert jobs_address() == "http://head:8265" and jobs_address("https://other") == "https://other"
    with pytest.raises(
        RequestError, match=r"http://127\.0\.0\.1:1 cannot be used: Connection refused"
    ):
        Jobs.at("http://127.0.0.1:1")


class YoungCluster:
    """A cluster whose dashboard answers before it can run a job."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def submit_job(self, **job: Any) -> str:
        if answer := self.answers.pop(0):
            raise RuntimeError(answer)
        return str(job["submission_id"])


def test_a_cluster_that_has_just_begun_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.serve.jobs.time.sleep", lambda seconds: None)
    jobs = Jobs("http://head:8265", YoungCluster("500: No available agent to submit job", ""))
    assert jobs._submit(submission_id="one") == "one"
    with pytest.raises(
        RequestError,
        match="sweep 'one' was handed to http://head:8265 before; choose another --name",
    ):
        Jobs("http://head:8265", YoungCluster("Job with submission_id one already exists"))._submit(
            submission_id="one"
        )


@pytest.mark.parametrize(
    ("state", "tells"),
    [("FAILED", True), ("STOPPED", True), ("SUCCEEDED", False), ("RUNNING", False)],
)
def test_the_status_of_a_job_that_was_broken_off_says_how_its_sweep_goes_on(
    state: str, tells: bool
) -> None:
    status = {
        "job": "one",
        "state": state,
        "started": "now",
        "ended": None,
        "minutes": 1.0,
        "message": "",
        "output": ["line"],
    }
    last = status_lines(status, "http://head:8265")[-1]
    assert last == (
        "  go on with it on the head, in RBNN_HOME (~/rbnn) there: rbnn resume one --address auto"
        if tells
        else "  | line"
    )
    assert len(status_lines({**status, "output": []}, "http://head:8265")) == 1, (
        "one line in a list"
    )


@dataclass
class Team:
    """A machine with `rbnn serve` running, and the command `rbnn` on another one that has its
    addresses and token.
    """

    folder: Path
    state: Path
    environment: dict[str, str]
    told: str

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """The command's output; it must end with `status`."""
        done = run_rbnn(arguments, self.folder, {**self.environment, **environment})
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def processes(self) -> list[Process]:
        return [
            Process(**process)
            for process in json.loads((self.state / "serve.json").read_text())["processes"]
        ]


def run_rbnn(
    arguments: tuple[str, ...], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tune.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Served on this machine alone, with users and a token of its own; ended after the tests,
    whatever they did.
    """
    folder = tmp_path_factory.mktemp("team")
    state = folder / "state"
    outside = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in outside}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**kept, **token, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    ports = ("--mlflow-port", "5700", "--dashboard-port", "8365", "--ray-port", "6479")
    served = run_rbnn(
        (
            "serve",
            "--state",
            "state",
            "--home",
            "home",
            "--users",
            "ann",
            "--num-cpus",
            "2",
            *ports,
        ),
        folder,
        environment,
    )
    try:
        assert served.returncode == 0, served.stdout + served.stderr
        addresses = re.search(r"export RAY_ADDRESS=(\S+) MLFLOW_TRACKING_URI=(\S+)", served.stdout)
        assert addresses, served.stdout
        mine = {"RAY_ADDRESS": addresses[1], "MLFLOW_TRACKING_URI": addresses[2]}
        login = {
            "MLFLOW_TRACKING_USERNAME": "ann",
            "MLFLOW_TRACKING_PASSWORD": (state / "passwords" / "ann").read_text().strip(),
        }
        yield Team(folder, state, {**environment, **mine, **login}, served.stdout)
    finally:
        run_rbnn(("serve", "--stop", "--state", "state"), folder, environment)


SCRIPT = """
from tune.tracking.mirror import Tracker
tracker = Tracker.open()
for run in tracker.children(tracker.sweep_run('handed').info.run_id):
    print(run.info.status, len(tracker.client.get_metric_history(run.info.run_id, 'val/top1')))
"""


@pytest.mark.slow
def test_a_sweep_is_handed_over_followed_recorded_and_stopped(team: Team) -> None:
    (team.folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "trials": 500, "concurrent": 1}))
    password = team.environment["MLFLOW_TRACKING_PASSWORD"]
    assert team.environment["RAY_AUTH_TOKEN"] in team.told and password not in team.told
    submitted = team.run("sweep", "tiny.yaml", "--name", "handed", "--submit")
    assert submitted.startswith("handed\n") and "rbnn logs -f handed" in submitted
    command = [sys.executable, "-W", "ignore", "-u", "-m", "tune.cli", "logs", "-f", "handed"]
    with subprocess.Popen(
        command, cwd=team.folder, env=team.environment, stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout
        heard = []
        for line in follower.stdout:
            heard.append(line)
            if "trial 0 complete after 2 epochs" in line:
                break
        assert json.loads(team.run("status", "handed", "--json"))["state"] == "RUNNING", heard
        assert "job handed on" in team.run("stop", "handed")
        heard.append(follower.stdout.read())
        assert follower.wait(timeout=60) == 0 and password not in "".join(heard)
    assert ": stopped, started" in team.run("status", "handed")
    assert (
        json.loads((team.folder / "home" / "result" / "handed" / "sweep.json").read_text())["state"]
        == "stopped"
    )
    script = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    asked = subprocess.run(script, env=team.environment, capture_output=True, text=True, timeout=60)
    trials = [line.split() for line in asked.stdout.splitlines()]
    assert trials[0] == ["FINISHED", "2"] and {state for state, _ in trials} <= {
        "FINISHED",
        "KILLED",
    }, asked.stderr


@pytest.mark.slow
def test_mistakes_with_a_team_are_one_line(team: Team) -> None:
    said = team.run(
        "status",
        "--address",
        team.environment["RAY_ADDRESS"],
        status=2,
        RAY_AUTH_TOKEN=secrets.token_hex(32),
    )
    assert (
        "it refuses this machine's token; copy the head's ~/.ray/auth_token" in said
        and said.count("\n") == 1
    )
    said = team.run("serve", "--state", "state", "--database", "sqlite:///other.db", status=2)
    assert "run already; end them with rbnn serve --stop" in said


@pytest.mark.slow
def test_serve_stop_ends_what_was_started(team: Team) -> None:
    processes = team.processes()
    assert len(processes) == 2 and all(process.alive for process in processes)
    assert "ended MLflow at" in team.run("serve", "--stop", "--state", "state")
    assert not any(process.alive for process in processes)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        host, port = team.environment[name].removeprefix("http://").split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
    assert "nothing runs that" in team.run("serve", "--stop", "--state", "state")
