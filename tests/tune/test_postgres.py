"""The team's server: MLflow on a real PostgreSQL, with users, and two sweeps that write at once."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from tune.process import Process
from tune.serve.head import wait_until_answering
from tune.serve.mlflow import SWEEPS, TeamServer, free_port
from tune.tracking.address import check_reachable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

ROOT = Path(__file__).resolve().parents[2]
UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL refuses root
NUM_TRIALS, NUM_EPOCHS = 2, 10
WRITER = f"""
import sys
from pathlib import Path
from tune.tracking.mirror import Tracker

name, folder = sys.argv[1], Path(sys.argv[2])
tracker = Tracker.open()
(folder / f"{{name}}.ckpt").write_text(name)
parent = tracker.start_run("sweep", name, recipe=None)
for number in range({NUM_TRIALS}):
    tags = {{"rbnn.sweep": name, "rbnn.trial": str(number)}}
    title = f"{{name}}-{{number}}"
    run_id = tracker.start_run("trial", title, recipe=None, parent=parent, tags=tags)
    for epoch in range({NUM_EPOCHS}):
        metrics = {{f"m/{{metric}}": epoch + metric / 100 for metric in range(12)}}
        tracker.log_epoch(run_id, metrics, epoch)
    tracker.client.log_artifact(run_id, str(folder / f"{{name}}.ckpt"), "checkpoints")
    tracker.finish(run_id, "FINISHED")
tracker.finish(parent, "FINISHED")
"""


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl: Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next(
        (
            folder
            for folder in folders
            if (folder / "pg_ctl").exists() and (folder / "initdb").exists()
        ),
        None,
    )


@dataclass
class Postgres:
    """A running server with one database. `url` holds no password; `password` is the one of its
    user.
    """

    url: str
    password: str


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server in a folder of its own, on this machine alone, that asks for a password; skips where
    none is installed.
    """
    programs = binaries()
    if programs is None:
        pytest.skip(
            "PostgreSQL's server (initdb, pg_ctl) is not installed; Debian's package is postgresql"
        )
    owner = {} if os.getuid() else {"user": unprivileged()}
    folder = Path(
        tempfile.mkdtemp(prefix="rbnn-postgres-")
    )  # not pytest's: that is closed to the user it runs as
    data, password = folder / "data", secrets.token_urlsafe(12)
    if owner:
        shutil.chown(folder, owner["user"])
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)

    def run(*command: str) -> None:
        done = subprocess.run(
            [str(programs / command[0]), *command[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            **owner,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(
        "initdb",
        "-D",
        str(data),
        "-U",
        "rbnn",
        "--auth=scram-sha-256",
        f"--pwfile={folder}/password",
        "--no-sync",
    )
    port = free_port("127.0.0.1", 5433)
    options = f"-h 127.0.0.1 -p {port} -k '' -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield Postgres(f"postgresql://rbnn@127.0.0.1:{port}/postgres", password)
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def unprivileged() -> str:
    """A user that PostgreSQL runs as: it refuses root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    """The server, answering, with the user ann."""
    folder = tmp_path_factory.mktemp("team")
    with postgres() as database, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", database.password)
        patch.chdir(folder)
        server = TeamServer(
            database.url, "127.0.0.1", free_port("127.0.0.1", 5600), ("ann",), folder / "state"
        )
        assert server.prepare_store() == []
        log = folder / "log"
        process = Process.start("mlflow", server.command(), server.environment(), log, folder)
        try:
            wait_until_answering(process, f"{server.base_url}/health", log, "")
            assert server.create_users() == ["ann", SWEEPS]
            yield server
            assert (
                database.password not in log.read_text()
                and server.password_of("ann") not in log.read_text()
            )
        finally:
            process.end()
        assert not process.alive


def status_of(server: TeamServer, user: str, password: str, host: str = "") -> int:
    """The HTTP status of a question for the experiments, asked by that user under that name of the
    server.
    """
    request = urllib.request.Request(
        f"{server.base_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    )
    request.add_header(
        "Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    )
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_users_with_their_password_get_in_and_only_by_its_own_names(team: TeamServer) -> None:
    check_reachable(team.base_url)
    assert status_of(team, "ann", team.password_of("ann")) == 200
    assert status_of(team, "ann", "wrong-password-123") == 401
    assert status_of(team, "ben", team.password_of("ann")) == 401
    assert status_of(team, "ann", team.password_of("ann"), host="elsewhere.example:80") == 403
    assert team.create_users() == [], "users that are there keep their passwords"


def test_passwords_are_in_no_command_line_and_readable_by_their_owner_alone(
    team: TeamServer,
) -> None:
    files = [path for path in team.state.rglob("*") if path.is_file() and path.name != "users.db"]
    assert {path.name for path in files} >= {"ann", "admin", SWEEPS, "secret_key", "basic_auth.ini"}
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    commands = b" ".join(
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.access(path, os.R_OK)
    )
    for name in ("ann", "admin", SWEEPS):
        assert team.password_of(name).encode() not in commands
    assert os.environ["PGPASSWORD"].encode() not in commands


def test_two_sweeps_at_once_lose_no_metric_and_fail_no_write(
    team: TeamServer, tmp_path: Path
) -> None:
    login = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": team.password_of("ann")}
    environment = {
        **os.environ,
        **login,
        "MLFLOW_TRACKING_URI": team.base_url,
        "PYTHONPATH": str(ROOT),
    }
    names = ("left", "right")
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WRITER, name, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs

    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        for name, value in login.items():
            patch.setenv(name, value)
        client = MlflowClient(team.base_url)
        experiment = client.get_experiment_by_name("rbnn")
        assert experiment.artifact_location.startswith("mlflow-artifacts:")
        runs = client.search_runs([experiment.experiment_id], "tags.`rbnn.kind` = 'trial'")
        assert len(runs) == len(names) * NUM_TRIALS and {run.info.status for run in runs} == {
            "FINISHED"
        }
        for run in runs:
            for metric in (0, 11):
                points = client.get_metric_history(run.info.run_id, f"m/{metric}")
                assert [(point.step, point.value) for point in points] == [
                    (e, e + metric / 100) for e in range(NUM_EPOCHS)
                ]
            kept = client.download_artifacts(
                run.info.run_id, f"checkpoints/{run.data.tags['rbnn.sweep']}.ckpt", str(tmp_path)
            )
            assert Path(kept).read_text() == run.data.tags["rbnn.sweep"]


def test_a_refused_database_login_is_one_line_that_says_where_the_password_belongs(
    team: TeamServer,
) -> None:
    stranger = replace(team, database=team.database.replace("rbnn@", "stranger@"))
    with pytest.raises(
        RequestError, match=r"password authentication failed .*~/\.pgpass or PGPASSWORD"
    ) as refusal:
        stranger.prepare_store()
    assert "\n" not in str(refusal.value)
