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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from rbnn.errors import RequestError
from tests.tune.workplace import TIMEOUT_S, Workplace, points_of
from tests.tune.writer import NUM_EPOCHS, NUM_METRICS, NUM_TRIALS
from tune.process import Process
from tune.serve.mlflow import SWEEPS, TeamServer, free_port, wait_until_answering
from tune.tracking.address import check_reachable
from tune.tracking.reader import RunReader

pytestmark = pytest.mark.slow

WRITER = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("writer.py"))]
UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL refuses root


def binaries() -> Path:
    """The folder of initdb and pg_ctl, which Debian keeps out of PATH; skips where none is."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "pg_ctl").exists() and (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL's server (initdb, pg_ctl) is not installed; Debian's is postgresql")


@contextlib.contextmanager
def postgres(password: str) -> Iterator[str]:
    """The URL, without the password, of a database in a folder of its own, on this machine alone,
    that asks for the password.
    """
    programs = binaries()
    known = {entry.pw_name for entry in pwd.getpwall()}
    owner = None if os.getuid() else next(name for name in UNPRIVILEGED if name in known)
    # not pytest's folder: that is closed to the user it runs as
    folder = Path(tempfile.mkdtemp(prefix="rbnn-postgres-"))
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)
    if owner:
        shutil.chown(folder, owner)

    def run(program: str, *options: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *options]
        with (folder / "said").open("w") as said:
            done = subprocess.run(command, cwd=folder, stdout=said, stderr=said, user=owner)
        assert done.returncode == 0, (folder / "said").read_text()

    run("initdb", "-U", "rbnn", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync")
    port = free_port("127.0.0.1", 5433)
    options = f"-h 127.0.0.1 -p {port} -k '' -c fsync=off"
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://rbnn@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    """The server, answering, with the user ann."""
    folder, password = tmp_path_factory.mktemp("team"), secrets.token_urlsafe(12)
    with postgres(password) as database, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", password)
        patch.chdir(folder)
        port = free_port("127.0.0.1", 5600)
        server = TeamServer(database, "127.0.0.1", port, ("ann",), folder / "state")
        assert server.prepare_store() == []
        log = folder / "log"
        process = Process.start(server.command(), server.environment(), log, folder)
        try:
            wait_until_answering("mlflow", process, f"{server.base_url}/health", log)
            assert server.create_users() == ["ann", SWEEPS]
            yield server
            said = log.read_text()
            assert password not in said and server.password_of("ann") not in said
        finally:
            process.end()
        assert not process.alive


def status_of(server: TeamServer, user: str, password: str, **headers: str) -> int:
    """The HTTP status of a question for the experiments, asked by that user."""
    url = f"{server.base_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    answer = requests.get(url, auth=(user, password), headers=headers, timeout=TIMEOUT_S)
    return answer.status_code


def test_only_users_with_their_password_get_in_and_only_by_its_own_names(team: TeamServer) -> None:
    check_reachable(team.base_url)
    password = team.password_of("ann")
    assert status_of(team, "ann", password) == 200
    assert status_of(team, "ann", "wrong-password-123") == 401
    assert status_of(team, "ben", password) == 401
    assert status_of(team, "ann", password, Host="elsewhere.example:80") == 403
    assert team.create_users() == [], "users that are there keep their passwords"


def test_passwords_are_in_no_command_line_and_readable_by_their_owner_alone(
    team: TeamServer,
) -> None:
    files = [path for path in team.state.rglob("*") if path.is_file() and path.name != "users.db"]
    assert {path.name for path in files} >= {"ann", "admin", SWEEPS, "secret_key", "basic_auth.ini"}
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    commands = str([process.info["cmdline"] for process in psutil.process_iter(["cmdline"])])
    assert "mlflow" in commands and os.environ["PGPASSWORD"] not in commands
    assert not any(team.password_of(name) in commands for name in ("ann", "admin", SWEEPS))


def test_two_sweeps_at_once_lose_no_metric_and_fail_no_write(
    team: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": team.password_of("ann")}
    environment = Workplace(tmp_path).environment | login | {"MLFLOW_TRACKING_URI": team.base_url}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    names = ("left", "right")
    writers = [
        subprocess.Popen([*WRITER, name, str(tmp_path)], env=environment, text=True, **pipes)
        for name in names
    ]
    outputs = [writer.communicate(timeout=TIMEOUT_S)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs

    for name, value in login.items():
        monkeypatch.setenv(name, value)
    reader = RunReader.open(team.base_url)
    experiment = reader.client.get_experiment_by_name("rbnn")
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    for name in names:
        runs = reader.children(reader.sweep_run(name).info.run_id)
        assert [run.info.status for run in runs] == ["FINISHED"] * NUM_TRIALS
        for run in runs:
            for metric in (0, NUM_METRICS - 1):
                expected = [(epoch, epoch + metric / 100) for epoch in range(NUM_EPOCHS)]
                assert points_of(reader, run.info.run_id, f"m/{metric}") == expected
            file = "verdict.json"
            kept = reader.client.download_artifacts(run.info.run_id, file, str(tmp_path))
            assert Path(kept).read_text() == name


def test_a_refused_database_login_is_one_line_that_says_where_the_password_belongs(
    team: TeamServer,
) -> None:
    stranger = replace(team, database=team.database.replace("rbnn@", "stranger@"))
    remedy = r"password authentication failed .*~/\.pgpass or PGPASSWORD"
    with pytest.raises(RequestError, match=remedy) as refusal:
        stranger.prepare_store()
    assert "\n" not in str(refusal.value)
