"""`rbnn serve`: a Ray head and an MLflow server on this machine, which run on until `rbnn serve
--stop`.

The state folder holds what is needed to stop them (serve.json), their logs, and the secrets of the
MLflow server.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rbnn.errors import RequestError, RunFailed
from tune.cluster.ray import NICENESS, SETTINGS
from tune.process import Process, ticks
from tune.serve.mlflow import (
    LOOPBACK,
    TeamServer,
    free_port,
    own_names,
    private,
    wait_until_answering,
)
from tune.uris import shown

DEFAULT_STATE = Path("~/.rbnn/serve")
STATE_FILE, LOCK_FILE = "serve.json", "lock"
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# Ray's own ports are on the address that it finds for this machine, whatever --host says
EVERYWHERE = "0.0.0.0"
# of Ray's client server, which cannot be left out; Ray's workers have 10002 to 19999
CLIENT_PORT = 9001
# of what starts jobs; a second Ray here would take Ray's own choice, and no job would ever start
AGENT_PORT = 9011


@dataclass(frozen=True)
class Served:
    """What runs and where it is reached. jobs: the dashboard, which takes jobs; join: the address
    of the head, for nodes; processes: by name, the first started first.
    """

    jobs: str
    join: str
    mlflow: str
    store: str
    home: str
    users: tuple[str, ...]
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return any(process.alive for process in self.processes.values())

    def write(self, state: Path) -> None:
        """Keep what runs, for `stop`."""
        private(state / STATE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def end(self, state: Path) -> None:
        """End the processes, the last started first, and forget them."""
        for process in reversed(self.processes.values()):
            process.end()
        (state / STATE_FILE).unlink(missing_ok=True)


def read_state(state: Path) -> Served | None:
    """What was started with this state folder and not stopped since."""
    file = state / STATE_FILE
    if not file.is_file():
        return None
    values = json.loads(file.read_text("utf-8"))
    given = values["processes"]
    if isinstance(given, list):  # until November 2026; with `created` in seconds since the epoch
        here = Process.current().host
        began = {one["name"]: Process(here, one["pid"], ticks(one["created"])) for one in given}
    else:
        began = {name: Process(**process) for name, process in given.items()}
    return Served(**{**values, "users": tuple(values["users"]), "processes": began})


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One `rbnn serve` at a time on a state folder; RequestError where another is at it."""
    busy = f"another rbnn serve is starting or stopping with {state}; wait until it is done"
    with private(state / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(busy) from None
        yield


@dataclass(frozen=True)
class RayHead:
    """How the Ray head is started. home: where sweeps handed to it run; num_*: None, Ray counts."""

    host: str
    port: int
    dashboard_port: int
    home: Path
    num_cpus: int | None = None
    num_gpus: int | None = None

    def on_free_ports(self) -> RayHead:
        dashboard_port = free_port(self.host, self.dashboard_port)
        return replace(self, port=free_port(EVERYWHERE, self.port), dashboard_port=dashboard_port)

    def command(self) -> list[str]:
        """`ray start --block`: its processes end with it, whatever ends it."""
        from ray.util import get_node_ip_address

        options = {
            "node-ip-address": "127.0.0.1" if self.host in LOOPBACK else get_node_ip_address(),
            "port": self.port,
            "dashboard-host": self.host,
            "dashboard-port": self.dashboard_port,
            "ray-client-server-port": free_port(EVERYWHERE, CLIENT_PORT),
            "dashboard-agent-listen-port": free_port(EVERYWHERE, AGENT_PORT),
            "num-cpus": self.num_cpus,
            "num-gpus": self.num_gpus,
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return [*RAY, "start", "--head", "--block", "--disable-usage-stats", *given]

    def environment(self, client: dict[str, str]) -> dict[str, str]:
        """Of the head and the sweeps handed to it; `client`: how they reach the MLflow server."""
        others = ("RAY_ADDRESS", "MLFLOW_TRACKING_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(others)}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        own = {"RAY_AUTH_MODE": "token", "RBNN_HOME": str(self.home), "PATH": path}
        return {**SETTINGS, **dict([NICENESS]), **kept, **own, **client}


def token() -> str:
    """This machine's Ray token, made where there is none."""
    command = [*RAY, "get-auth-token", "--generate"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise RunFailed(f"Ray's token cannot be read: {lines[-1]}")
    return done.stdout.strip()


def start(
    state: Path, server: TeamServer, head: RayHead, say: Callable[[str], object] = print
) -> Served:
    """Start the MLflow server and the Ray head, each at the given port or the next free one, and
    wait until both answer. RequestError where they run already or the store cannot be used,
    RunFailed where one does not start: what was started is ended again.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(state):
        before = read_state(state)
        if before and before.alive:
            both = f"MLflow at {before.mlflow} and Ray at {before.jobs}"
            raise RequestError(f"{both} run already; end them with rbnn serve --stop")
        server = replace(server, port=free_port(server.host, server.port))
        head = head.on_free_ports()
        for warning in server.prepare_store():
            say(warning)
        head.home.mkdir(parents=True, exist_ok=True)
        name = own_names(server.host)[0]
        served = Served(
            jobs=f"http://{name}:{head.dashboard_port}",
            join=f"{name}:{head.port}",
            mlflow=f"http://{name}:{server.port}",
            store=shown(server.database),
            home=str(head.home),
            users=server.users,
        )
        try:
            _start_both(state, server, head, served, say)
        except BaseException:
            served.end(state)
            raise
        return served


def _start_both(
    state: Path, server: TeamServer, head: RayHead, served: Served, say: Callable[[str], object]
) -> None:
    """Start the two in turn, as each answers, and note their processes in `served` and its file."""
    secret = token()

    def run(name: str, command: list[str], environment: dict[str, str], url: str) -> None:
        log = private(state / f"{name}.log")
        log.write_text("")
        process = Process.start(command, environment, log, head.home)
        served.processes[name] = process
        served.write(state)
        wait_until_answering(name, process, url, log, token=secret if name == "ray" else "")

    say("starting MLflow's server")
    run("mlflow", server.command(), server.environment(), f"{server.base_url}/health")
    server.create_users()
    say("starting Ray")
    host = "127.0.0.1" if head.host in LOOPBACK else own_names(head.host)[0]
    url = f"http://{host}:{head.dashboard_port}/api/version"
    run("ray", head.command(), head.environment(server.client_environment()), url)


def stop(state: Path) -> Served | None:
    """End what was started with this state folder, and nothing else; None where nothing runs."""
    if not (state / STATE_FILE).is_file():
        return None
    with locked(state):
        served = read_state(state)
        alive = served is not None and served.alive
        if served:
            served.end(state)
        return served if alive else None
