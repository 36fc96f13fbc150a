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
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rbnn.errors import RequestError, RunFailed
from tune.cluster.ray import SETTINGS
from tune.serve.mlflow import LOOPBACK, TeamServer, own_names, private
from tune.serve.processes import Process
from tune.tracking.address import shown

DEFAULT_STATE = Path("~/.rbnn/serve")
STATE_FILE, LOCK_FILE = "serve.json", "lock"
START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Served:
    """What runs and where it is reached. jobs: the dashboard, which takes jobs; join: the address
    of the head, for nodes.
    """

    jobs: str
    join: str
    mlflow: str
    store: str
    home: str
    users: tuple[str, ...]
    processes: tuple[Process, ...]

    @property
    def alive(self) -> bool:
        return any(process.alive for process in self.processes)


def read_state(state: Path) -> Served | None:
    """What was started with this state folder and not stopped since."""
    file = state / STATE_FILE
    if not file.is_file():
        return None
    values = json.loads(file.read_text())
    processes = tuple(Process(**process) for process in values.pop("processes"))
    return Served(**{**values, "users": tuple(values["users"])}, processes=processes)


def write_state(state: Path, served: Served) -> None:
    """Keep what runs, for `stop`."""
    private(state / STATE_FILE).write_text(json.dumps(asdict(served), indent=2) + "\n")


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One `rbnn serve` at a time on a state folder; RequestError where another is at it."""
    with private(state / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"another rbnn serve is starting or stopping with {state}; wait until it is done"
            ) from None
        yield


@dataclass(frozen=True)
class HeadOptions:
    """How the Ray head is started; ports as they were chosen. home: where sweeps handed to it run;
    num_*: None, Ray counts.
    """

    host: str
    port: int
    dashboard_port: int
    client_port: int
    agent_port: int
    home: Path
    num_cpus: int | None = None
    num_gpus: int | None = None

    def command(self) -> list[str]:
        """`ray start --block`: its processes end with it, whatever ends it."""
        from ray.util import get_node_ip_address

        local = self.host in LOOPBACK
        address = "127.0.0.1" if local else get_node_ip_address()
        ports = [
            "--port",
            str(self.port),
            "--dashboard-host",
            self.host,
            "--dashboard-port",
            str(self.dashboard_port),
        ]
        ports += [
            "--ray-client-server-port",
            str(self.client_port),
            "--dashboard-agent-listen-port",
            str(self.agent_port),
        ]
        counts = {"--num-cpus": self.num_cpus, "--num-gpus": self.num_gpus}
        given = [
            text
            for name, count in counts.items()
            if count is not None
            for text in (name, str(count))
        ]
        start = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
        ]
        return [*start, "--node-ip-address", address, *ports, *given]

    def environment(self, client: dict[str, str]) -> dict[str, str]:
        """The head's environment, which the sweeps handed to it inherit; `client`: how they reach
        the MLflow server.
        """
        outside = (
            "RAY_ADDRESS",
            "MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
        )
        kept = {name: value for name, value in os.environ.items() if name not in outside}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        own = {"RAY_AUTH_MODE": "token", "RBNN_HOME": str(self.home), "PATH": path}
        return {**SETTINGS, **kept, **own, **client}


def token() -> str:
    """This machine's Ray token, made where there is none."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(
            "Ray's token cannot be read: "
            f"{(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    return done.stdout.strip()


def start(
    state: Path, server: TeamServer, head: HeadOptions, say: Callable[[str], object] = print
) -> Served:
    """Start the MLflow server and the Ray head and wait until both answer.

    Raises RequestError where they run already or the store cannot be used, RunFailed where one does
    not start: what was started is ended again.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(state):
        before = read_state(state)
        if before and before.alive:
            raise RequestError(
                f"MLflow at {before.mlflow} and Ray at {before.jobs} run already; end them with "
                "rbnn serve --stop"
            )
        for warning in server.prepare_store():
            say(warning)
        name = own_names(server.host)[0]
        served = Served(
            jobs=f"http://{name}:{head.dashboard_port}",
            join=f"{name}:{head.port}",
            mlflow=f"http://{name}:{server.port}",
            store=shown(server.database),
            home=str(head.home),
            users=server.users,
            processes=(),
        )
        head.home.mkdir(parents=True, exist_ok=True)
        secret = token()
        started: list[Process] = []

        def run(name: str, command: list[str], environment: dict[str, str], url: str) -> None:
            log = private(state / f"{name}.log")
            log.write_text("")
            started.append(Process.start(name, command, environment, log, head.home))
            write_state(state, Served(**{**vars(served), "processes": tuple(started)}))
            wait_until_answering(started[-1], url, log, secret)

        try:
            say("starting MLflow's server")
            run("mlflow", server.command(), server.environment(), f"{server.base_url}/health")
            server.create_users()
            say("starting Ray")
            local = (
                f"http://{'127.0.0.1' if server.host in LOOPBACK else name}:{head.dashboard_port}"
            )
            run(
                "ray",
                head.command(),
                head.environment(server.client_environment()),
                f"{local}/api/version",
            )
        except BaseException:
            end(state, started)
            raise
        return Served(**{**vars(served), "processes": tuple(started)})


def stop(state: Path) -> Served | None:
    """End what was started with this state folder, and nothing else; returns it, None where nothing
    runs.
    """
    if not (state / STATE_FILE).is_file():
        return None
    with locked(state):
        served = read_state(state)
        alive = served is not None and served.alive
        if served:
            end(state, list(served.processes))
        return served if alive else None


def end(state: Path, processes: list[Process]) -> None:
    """End processes, the last started first, and forget them."""
    for process in reversed(processes):
        process.end()
    (state / STATE_FILE).unlink(missing_ok=True)


def wait_until_answering(process: Process, url: str, log: Path, secret: str) -> None:
    """Return when the address answers; RunFailed, with the log's last line, where the process ends
    or takes too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {secret}"} if process.name == "ray" else {}
    )
    while process.alive and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise RunFailed(
        f"{process.name} did not start at {url}: {lines[-1] if lines else 'it printed nothing'}; "
        f"see {log}"
    )
