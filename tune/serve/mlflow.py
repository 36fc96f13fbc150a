"""MLflow's server for a team: which database, who may log in, which hosts may call; no secret on a
command line or in a log.

Everything secret reaches the server through its environment or through files that only its owner
can read.
"""

from __future__ import annotations

import configparser
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rbnn.errors import RequestError
from tune.tracking.address import (
    DATABASE_PORTS,
    artifact_folder,
    check_reachable,
    is_server,
    quiet_client,
    shown,
    unreachable,
)

ADMIN = "admin"
SWEEPS = "rbnn-sweeps"  # the user that sweeps handed to this machine's Ray log in as
SECRET_KEY, AUTH_CONFIG, PASSWORDS = "secret_key", "basic_auth.ini", "passwords"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATABASE_REMEDY = "check the name of the database, and the password in ~/.pgpass or PGPASSWORD"
# of the server, where the database takes several writers at once; each loads MLflow, seconds of a
# core
NUM_WORKERS = 2
# a password is hashed once in so long, not for every request, which would take longer than the
# request
LOGIN_CACHE_S = 60


@dataclass(frozen=True)
class TeamServer:
    """What the server is started with. state: the folder for its secrets; users: names, none for a
    server without login; names: further names by which clients reach this machine, such as that of
    a proxy in front of it.
    """

    database: str
    host: str
    port: int
    users: tuple[str, ...]
    state: Path
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if is_server(self.database):
            raise RequestError(
                f"database '{shown(self.database)}' is a server already; give a database, e.g. "
                "postgresql://NAME@HOST/NAME, "
                "or unset MLFLOW_TRACKING_URI"
            )
        if urlsplit(self.database).password:
            raise RequestError(
                f"database '{shown(self.database)}' holds a password, which all users of this "
                "machine could read in the list "
                "of processes; leave it out, and put it into ~/.pgpass or the environment "
                "variable PGPASSWORD"
            )
        wrong = [
            name
            for name in self.users
            if not re.fullmatch(r"[A-Za-z0-9._@-]+", name) or name in (ADMIN, SWEEPS)
        ]
        if wrong:
            raise RequestError(
                f"users holds '{wrong[0]}'; names are letters, digits, '.', '_', '-' and '@'; "
                f"{ADMIN} and {SWEEPS} are taken"
            )
        if self.host not in LOOPBACK and not self.users:
            raise RequestError(
                f"host {self.host} opens the store to the network; give --users NAME,NAME (their "
                "passwords are made), or "
                "--host 127.0.0.1 for this machine alone"
            )

    @property
    def base_url(self) -> str:
        """The address for clients on this machine."""
        return f"http://{reached_at(self.host)}:{self.port}"

    def prepare_store(self) -> list[str]:
        """Make the database's tables where they are missing, by one process alone; returns what a
        team should know of it.

        RequestError, one line, where the database cannot be used.
        """
        check_reachable(self.database)
        from mlflow.exceptions import MlflowException
        from sqlalchemy import create_engine
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = create_engine(self.database)
            engine.connect().close()  # once: MLflow itself tries a refused login again for minutes
            engine.dispose()
            experiments = quiet_client(self.database).search_experiments()
        except (MlflowException, SQLAlchemyError) as error:
            raise unreachable(self.database, error, DATABASE_REMEDY) from error
        local = [
            found
            for found in experiments
            if found.artifact_location.startswith(("file:", "/")) and found.name != "Default"
        ]
        return [
            f"experiment {found.name} was made without a server: its files stay in "
            f"{found.artifact_location}, which clients on "
            "other machines cannot write; give them another --database, or move it aside"
            for found in local
        ]

    def command(self) -> list[str]:
        """The server's command line; nothing in it is secret."""
        workers = (
            NUM_WORKERS if urlsplit(self.database).scheme.partition("+")[0] in DATABASE_PORTS else 1
        )
        login = ["--app-name", "basic-auth"] if self.users else []
        place = ["--host", self.host, "--port", str(self.port), "--workers", str(workers)]
        return [sys.executable, "-m", "mlflow", "server", *place, *login]

    def environment(self) -> dict[str, str]:
        """The server's environment: this process's, the database, artifacts through the server,
        allowed hosts, the login.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MLFLOW_TRACKING_")
        }
        hosts = allowed_hosts([*own_names(self.host), *self.names], self.port)
        settings = {
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_REGISTRY_STORE_URI": self.database,
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_ARTIFACTS_DESTINATION": str(artifact_folder(self.database)),
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}" for host in hosts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        return {**kept, **settings, **(self._login() if self.users else {})}

    def _login(self) -> dict[str, str]:
        return {
            "MLFLOW_FLASK_SERVER_SECRET_KEY": kept_secret(self.state / SECRET_KEY),
            "MLFLOW_AUTH_CONFIG_PATH": str(self._auth_config()),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password_of(ADMIN),
        }

    def _auth_config(self) -> Path:
        """MLflow's own file of settings for its login; who may log in may read and write every
        experiment, as one team.
        """
        config = configparser.ConfigParser()
        config["mlflow"] = {
            "default_permission": "EDIT",
            "database_uri": f"sqlite:///{self.state.absolute()}/users.db",
            "admin_username": ADMIN,
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "grant_default_workspace_access": "true",
            "auth_cache_ttl_seconds": str(LOGIN_CACHE_S),
        }
        path = self.state / AUTH_CONFIG
        with private(path).open("w") as file:
            config.write(file)
        return path

    def password_of(self, user: str) -> str:
        """The password that was made for a user, in a file of the state folder that only its owner
        can read.
        """
        (self.state / PASSWORDS).mkdir(mode=0o700, parents=True, exist_ok=True)
        return kept_secret(self.state / PASSWORDS / user)

    def client_environment(self) -> dict[str, str]:
        """What a sweep on this machine's Ray needs to write to the server."""
        login = (
            {
                "MLFLOW_TRACKING_USERNAME": SWEEPS,
                "MLFLOW_TRACKING_PASSWORD": self.password_of(SWEEPS),
            }
            if self.users
            else {}
        )
        return {"MLFLOW_TRACKING_URI": self.base_url, **login}

    def create_users(self) -> list[str]:
        """Make the users that the server does not know, with the password that is kept for each;
        returns who is new.
        """
        new = []
        for user in (*self.users, SWEEPS) if self.users else ():
            if self._request("GET", "users/get", params={"username": user}).status_code == 404:
                body = {"username": user, "password": self.password_of(user)}
                self._request("POST", "users/create", json=body).raise_for_status()
                new.append(user)
        return new

    def _request(self, method: str, path: str, **content: Any) -> Any:
        import requests

        return requests.request(
            method,
            f"{self.base_url}/api/2.0/mlflow/{path}",
            auth=(ADMIN, self.password_of(ADMIN)),
            timeout=30,
            **content,
        )


def reached_at(host: str) -> str:
    """The name under which this machine reaches a server that listens at `host`."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host


def own_names(host: str) -> list[str]:
    """The names and addresses by which clients may reach a server listening at `host`, as far as
    this machine knows them.
    """
    here = ["127.0.0.1", "localhost"]
    if host not in ("", "0.0.0.0", "::"):
        return list(dict.fromkeys([host, *here]))
    from ray.util import get_node_ip_address

    return list(
        dict.fromkeys([get_node_ip_address(), socket.gethostname(), socket.getfqdn(), *here])
    )


def allowed_hosts(names: Iterable[str], port: int) -> list[str]:
    """The Host headers that the server answers: each name, with its port and without."""
    return [text for name in dict.fromkeys(names) for text in (f"{name}:{port}", name)]


def user_names(given: Iterable[str]) -> tuple[str, ...]:
    """The names in `--users ann,ben`."""
    return tuple(
        dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip())
    )


def private(path: Path) -> Path:
    """The file, made where it is missing, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def kept_secret(path: Path) -> str:
    """The secret in a file that only its owner can read; made at random the first time."""
    text = path.read_text().strip() if path.is_file() else ""
    if not text:
        text = secrets.token_urlsafe(18)
        private(path).write_text(text + "\n")
    return text
