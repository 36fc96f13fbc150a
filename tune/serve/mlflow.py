"""MLflow's server: for one user's pages, and for a team: which database, who may log in, which
hosts may call.

Everything secret reaches the server through its environment or through files that only its owner
can read: no secret is on a command line or in a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rbnn.errors import RequestError, RunFailed
from tune.process import Process
from tune.tracking.address import DATABASE_PORTS, artifact_folder, prepare_database
from tune.uris import is_server, shown

ADMIN = "admin"
SWEEPS = "rbnn-sweeps"  # the user that sweeps handed to this machine's Ray log in as
SECRET_KEY, AUTH_CONFIG, PASSWORDS = "secret_key", "basic_auth.ini", "passwords"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALL_ADDRESSES = ("", "0.0.0.0", "::")
NUM_PORTS_TRIED = 20
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
OURS = "tune.tracking.pages:app"  # MLflow's app, and the page that opens it
# where the database takes several writers at once; each loads MLflow, seconds of a core
NUM_WORKERS = 2
# Settings of MLflow's login; who may log in may read and write every experiment, as one team. A
# password is hashed once in a minute, not for every request, which would take longer than it.
LOGIN = """[mlflow]
default_permission = EDIT
database_uri = sqlite:///{users}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = true
auth_cache_ttl_seconds = 60
"""


def server_settings(uri: str) -> dict[str, str]:
    """A server's environment: the database, perhaps with a password; nothing in the background."""
    return {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_REGISTRY_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifact_folder(uri)),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextlib.contextmanager
def mlflow_server(
    uri: str, port: int, host: str = "127.0.0.1", meanwhile: Callable[[], object] = lambda: None
) -> Iterator[Process]:
    """A server for one user that answers inside the block, ended with its processes. MLflow's
    own command would import MLflow once more: seconds. meanwhile: what to do while it starts.
    """
    environment = {**os.environ, **server_settings(uri)}
    command = [sys.executable, "-m", "uvicorn", OURS, "--host", host, "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="rbnn-mlflow-") as folder:
        log = Path(folder) / "log"
        server = Process.start(command, environment, log)
        try:
            meanwhile()
            url = f"http://{reached_at(host)}:{port}/health"
            wait_until_answering("MLflow's server", server, url, log, log_stays=False)
            yield server
        finally:
            server.end(STOP_TIMEOUT_S)


@dataclass(frozen=True)
class TeamServer:
    """What a team's server is started with. state: the folder for its secrets; users: none for a
    server without login; names: further ones of this machine, such as that of a proxy before it.
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
                "postgresql://NAME@HOST/NAME, or unset MLFLOW_TRACKING_URI"
            )
        if urlsplit(self.database).password:
            raise RequestError(
                f"database '{shown(self.database)}' holds a password, which all users of this "
                "machine could read in the list of processes; leave it out, and put it into "
                "~/.pgpass or the environment variable PGPASSWORD"
            )
        for name in self.users:
            if not re.fullmatch(r"[A-Za-z0-9._@-]+", name) or name in (ADMIN, SWEEPS):
                raise RequestError(
                    f"users holds '{name}'; names are letters, digits, '.', '_', '-' and '@'; "
                    f"{ADMIN} and {SWEEPS} are taken"
                )
        if self.host not in LOOPBACK and not self.users:
            raise RequestError(
                f"host {self.host} opens the store to the network; give --users NAME,NAME (their "
                "passwords are made), or --host 127.0.0.1 for this machine alone"
            )

    @property
    def base_url(self) -> str:
        """The address for clients on this machine."""
        return f"http://{reached_at(self.host)}:{self.port}"

    def prepare_store(self) -> list[str]:
        """Make the database's tables, by one process alone; returns what a team should know."""
        return [
            f"experiment {name} was made without a server: its files stay in {place}, which "
            "clients on other machines cannot write; give them another --database, or move it "
            "aside"
            for name, place in prepare_database(self.database).items()
            if place.startswith(("file:", "/")) and name != "Default"
        ]

    def command(self) -> list[str]:
        """The server's command line; nothing in it is secret."""
        several = urlsplit(self.database).scheme.partition("+")[0] in DATABASE_PORTS
        num_workers = NUM_WORKERS if several else 1
        options = ["--host", self.host, "--port", str(self.port), "--workers", str(num_workers)]
        login = ["--app-name", "basic-auth"] if self.users else []
        return [sys.executable, "-m", "mlflow", "server", *options, *login]

    def environment(self) -> dict[str, str]:
        """The server's environment; artifacts go through the server."""
        kept = {name: text for name, text in os.environ.items() if "MLFLOW_TRACKING_" not in name}
        hosts = allowed_hosts([*own_names(self.host), *self.names], self.port)
        return {
            **kept,
            **server_settings(self.database),
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}" for host in hosts),
            **(self._login() if self.users else {}),
        }

    def _login(self) -> dict[str, str]:
        config, users = private(self.state / AUTH_CONFIG), self.state.absolute() / "users.db"
        config.write_text(LOGIN.format(users=users, admin=ADMIN))
        return {
            "MLFLOW_FLASK_SERVER_SECRET_KEY": kept_secret(self.state / SECRET_KEY),
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password_of(ADMIN),
        }

    def password_of(self, user: str) -> str:
        """The password that was made for a user, kept in the state folder."""
        return kept_secret(self.state / PASSWORDS / user)

    def client_environment(self) -> dict[str, str]:
        """What a sweep on this machine's Ray needs to write to the server."""
        found = {"MLFLOW_TRACKING_URI": self.base_url}
        if self.users:
            found["MLFLOW_TRACKING_USERNAME"] = SWEEPS
            found["MLFLOW_TRACKING_PASSWORD"] = self.password_of(SWEEPS)
        return found

    def create_users(self) -> list[str]:
        """Make the users that the server does not know; returns who is new."""
        new = []
        for user in (*self.users, SWEEPS) if self.users else ():
            if self._request("GET", "users/get", params={"username": user}).status_code == 404:
                body = {"username": user, "password": self.password_of(user)}
                self._request("POST", "users/create", json=body).raise_for_status()
                new.append(user)
        return new

    def _request(self, method: str, path: str, **content: Any) -> Any:
        import requests

        url = f"{self.base_url}/api/2.0/mlflow/{path}"
        login = (ADMIN, self.password_of(ADMIN))
        return requests.request(method, url, auth=login, timeout=30, **content)


def wait_until_answering(
    name: str, process: Process, url: str, log: Path, *, token: str = "", log_stays: bool = True
) -> None:
    """RunFailed, with the log's last line, where the process ends or takes too long to answer."""
    deadline = time.monotonic() + START_TIMEOUT_S
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    while process.alive and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    see = f"; see {log}" if log_stays else ""
    raise RunFailed(f"{name} did not start at {url}: {last}{see}")


def free_port(host: str, preferred: int) -> int:
    """`preferred` or the next free port; RequestError for none, or a host that is not this one."""
    if not 0 < preferred < 65536:
        raise RequestError(f"port {preferred} is not one; give a number from 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(preferred, min(preferred + NUM_PORTS_TRIED, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                reason = error.strerror
    tried = f"port {preferred} on {host} and the {NUM_PORTS_TRIED - 1} after it"
    raise RequestError(f"{tried} cannot be used: {reason}")


def reached_at(host: str) -> str:
    """The name under which this machine reaches a server that listens at `host`."""
    return "127.0.0.1" if host in ALL_ADDRESSES else host


def own_names(host: str) -> list[str]:
    """The names by which clients may reach a server listening at `host`, as far as known here."""
    found = [host]
    if host in ALL_ADDRESSES:
        from ray.util import get_node_ip_address

        found = [get_node_ip_address(), socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys([*found, "127.0.0.1", "localhost"]))


def allowed_hosts(names: Iterable[str], port: int) -> list[str]:
    """The Host headers that the server answers: each name, with its port and without."""
    return [text for name in dict.fromkeys(names) for text in (f"{name}:{port}", name)]


def private(path: Path) -> Path:
    """The file, made where it is missing, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def kept_secret(path: Path) -> str:
    """The secret in a file that only its owner can read; made at random the first time."""
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not text:
        text = secrets.token_urlsafe(18)
        private(path).write_text(text + "\n")
    return text
