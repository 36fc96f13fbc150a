"""Links into MLflow's pages, and its server in the foreground for a store that is a
database file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlencode

from rbnn.errors import RequestError, RunFailed
from tune.tracking.address import artifact_folder, is_server, without_login
from tune.tracking.reader import EXPERIMENT, RunReader
from tune.tracking.view import save_view, searched_in, sweep_id_of, view_link

if TYPE_CHECKING:
    from mlflow.entities import Run

NUM_PORTS_TRIED = 20
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0


def all_runs_link(base_url: str, experiment_id: str) -> str:
    """The address of the table of every run, the newest first. Said in full: the page else keeps
    the filter shown before.
    """
    order = {"orderByKey": "attributes.start_time", "orderByAsc": "false"}
    return _runs_link(base_url, experiment_id, {"compareRunsMode": "", "searchFilter": "", **order})


def _runs_link(base_url: str, experiment_id: str, query: dict[str, str]) -> str:
    text = urlencode({"workflowType": "machine_learning", **query})
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{text}"


def serve_ui(
    tracker_uri: str,
    port: int = 5000,
    host: str = "127.0.0.1",
    *,
    sweep: str = "",
    say: Callable[[str], Any] = print,
) -> None:
    """Say where the runs are to be seen; for a database, serve them there until Ctrl-C, SIGTERM or
    SIGHUP.

    `sweep`: a sweep's name or run id, by default the latest sweep. A taken `port` is replaced by
    the next free one. Raises RequestError for an unreachable store or an unknown sweep, RunFailed
    where MLflow's server does not start.
    """
    reader = RunReader.open(tracker_uri, create=True)
    sweeps = [reader.sweep_run(sweep)] if sweep else reader.sweeps()[-1:]
    for run in sweeps:
        options = searched_in(run.data.params)
        save_view(reader.client, run.info.experiment_id, sweep_id_of(run), options)
    if is_server(reader.uri):
        _say_links(without_login(reader.uri), reader, sweeps, say)
        return
    chosen = free_port(host, port)
    if chosen != port:
        say(f"port {port} is taken, using {chosen}")
    base_url = f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '::') else host}:{chosen}"
    with _ended_by_signals(), mlflow_server(reader.uri, chosen, host) as server:
        _say_links(base_url, reader, sweeps, say)
        say("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            status = server.wait()
            raise RunFailed(f"MLflow's server at {base_url} ended by itself with status {status}")


def _say_links(
    base_url: str, reader: RunReader, sweeps: list[Run], say: Callable[[str], Any]
) -> None:
    for run in sweeps:
        experiment, sweep_id = run.info.experiment_id, sweep_id_of(run)
        say(f"sweep {run.info.run_name}: {view_link(base_url, experiment, sweep_id)}")
        say(f"  as a table: {view_link(base_url, experiment, sweep_id, charts=False)}")
    found = reader.client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else reader.experiment_ids[0]
    say(f"all runs: {all_runs_link(base_url, experiment)}")


def free_port(host: str, preferred: int) -> int:
    """`preferred`, or the first free port of the next few; RequestError where none is, or the host
    is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(preferred, min(preferred + NUM_PORTS_TRIED, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error
                continue
            return port
    raise RequestError(
        f"port {preferred} on {host} and the {NUM_PORTS_TRIED - 1} after it cannot be used: "
        f"{reason.strerror}"
    )


@contextlib.contextmanager
def mlflow_server(
    uri: str, port: int, host: str = "127.0.0.1"
) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server that answers at host:port inside the block, over the database at `uri`;
    ended with all its processes.

    The database goes to the server through its environment, so that a password is not in the list
    of processes. One worker answers this many users; background jobs and usage statistics stay off.
    """
    settings = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_REGISTRY_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifact_folder(uri)),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_healthy(server, f"http://{host or '127.0.0.1'}:{port}", log)
            yield server
        finally:
            _end_group(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], base_url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{base_url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["it printed nothing"]
    raise RunFailed(f"MLflow's server did not start at {base_url}: {lines[-1]}")


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End every process of the server's group: asked first, killed after STOP_TIMEOUT_S. The server
    leads its own group.
    """
    for request in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_TIMEOUT_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, request)
            while time.monotonic() < deadline:
                server.poll()
                os.killpg(server.pid, 0)
                time.sleep(0.05)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) act as Ctrl-C does, so that the server is ended then,
    too; nohup keeps its say.
    """
    signals = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = [signal.signal(number, signal.default_int_handler) for number in signals]
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
