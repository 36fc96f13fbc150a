"""MLflow's server: no password shown or asked in vain, answers to its own names, ends whole."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from rbnn.errors import RequestError, RunFailed
from tune.cli.cluster import split_names
from tune.serve.mlflow import TeamServer, allowed_hosts, free_port, kept_secret, mlflow_server


def server(folder: Path, **values: Any) -> TeamServer:
    given = {"database": "sqlite:///x.db", "host": "127.0.0.1", "port": 5000, "users": ()}
    return TeamServer(**{**given, "state": folder / "state", **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"database": "postgresql://ann:hidden@host/x"}, r"ann:\*\*\*@host/x' holds a password"),
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


def test_a_server_without_users_has_no_login(tmp_path: Path) -> None:
    alone = server(tmp_path)
    assert "basic-auth" not in alone.command()
    assert "MLFLOW_AUTH_CONFIG_PATH" not in alone.environment()
    assert alone.client_environment() == {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}


def test_a_team_s_server_answers_by_its_names_and_keeps_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "someone's")
    users = split_names(["ann,ben", " ann"])
    team = server(tmp_path, host="0.0.0.0", users=users, names=("proxy",))
    assert "basic-auth" in team.command() and team.users == ("ann", "ben")
    environment = team.environment()
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"} & set(environment)
    hosts = set(environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    assert hosts >= {"proxy:5000", "proxy", "localhost:5000", f"{socket.gethostname()}:5000"}
    assert "*" not in hosts and allowed_hosts(["a", "a", "b"], 1) == ["a:1", "a", "b:1", "b"]
    assert "http://proxy:5000" in environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    names = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    hidden = {environment[name] for name in names}
    assert len(hidden) == 2 and not hidden & set(team.command())
    assert hidden == {team.environment()[name] for name in names}, "secrets are kept"


def test_a_secret_is_random_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    files = tmp_path / "state" / "one", tmp_path / "state" / "two"
    one, two = (kept_secret(file) for file in files)
    assert one != two and len(one) >= 20 and kept_secret(files[0]) == one
    assert files[0].stat().st_mode & 0o077 == 0


def test_a_taken_port_is_replaced_by_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 20
    with pytest.raises(RequestError, match=r"port 5000 on 203\.0\.113\.9 "):
        free_port("203.0.113.9", 5000)
    for port in (-1, 0, 65536):
        with pytest.raises(RequestError, match=f"port {port} is not one; give a number from 1 to"):
            free_port("127.0.0.1", port)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        refused = pytest.raises(RunFailed, match=r"MLflow's server did not start at .*: .*[a-z]")
        with refused, mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", port):
            pass
