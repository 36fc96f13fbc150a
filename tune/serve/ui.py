"""`rbnn ui`: links into MLflow's pages, its server for a database file, Optuna's dashboard."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from rbnn.errors import RequestError, RunFailed
from tune.serve.mlflow import free_port, mlflow_server, reached_at
from tune.sweep.folder import SweepFolder
from tune.tracking.reader import EXPERIMENT, RunReader
from tune.tracking.view import (
    all_runs_link,
    opening_link,
    save_view,
    searched_in,
    sweep_id_of,
    view_link,
)
from tune.uris import is_server, sqlite_path, without_login


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
    if is_server(tracker_uri):
        reader, sweeps = look(tracker_uri, sweep)
        _say_links(without_login(reader.uri), reader, sweeps, say, ours=False)
        return
    path = sqlite_path(tracker_uri)
    if path is None or not path.is_file():  # one process alone makes the tables
        RunReader.open(tracker_uri, create=True)
    chosen = free_port(host, port)
    if chosen != port:
        say(f"port {port} is taken, using {chosen}")
    base_url = f"http://{reached_at(host)}:{chosen}"
    found: list[tuple[RunReader, list[Any]]] = []

    def meanwhile() -> None:
        found.append(look(tracker_uri, sweep))

    with ended_by_signals(), mlflow_server(tracker_uri, chosen, host, meanwhile) as server:
        _say_links(base_url, *found[0], say, ours=True)
        say("Ctrl-C ends it")
        status = server.wait()
        raise RunFailed(f"MLflow's server at {base_url} ended by itself with status {status}")


def look(uri: str, sweep: str) -> tuple[RunReader, list[Any]]:
    """(the store, the run of that sweep or of the latest one, whose view is saved now)."""
    reader = RunReader.open(uri, create=True)
    sweeps = [reader.sweep_run(sweep)] if sweep else reader.sweeps()[-1:]
    for run in sweeps:
        options = searched_in(run.data.params)
        save_view(reader.client, run.info.experiment_id, sweep_id_of(run), options)
    return reader, sweeps


def serve_optuna(
    sweep: SweepFolder, port: int, host: str = "127.0.0.1", *, say: Callable[[str], Any] = print
) -> None:
    """Optuna's dashboard until a signal; RequestError where it is not installed."""
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise RequestError(
            "--optuna shows sweeps in optuna-dashboard; run: pip install optuna-dashboard"
        ) from None
    storage, chosen = sweep.storage_url(), free_port(host, port)
    say(f"sweep {sweep.record.name}: http://{reached_at(host)}:{chosen}/dashboard")
    say("Ctrl-C ends it")
    with ended_by_signals():
        run_server(storage, host, chosen)


def _say_links(
    base_url: str, reader: RunReader, sweeps: list[Any], say: Callable[[str], Any], *, ours: bool
) -> None:
    """ours: whether the server has the page that opens MLflow's own (tune/tracking/pages.py)."""
    found = reader.client.get_experiment_by_name(EXPERIMENT)
    everything = found.experiment_id if found else reader.experiment_ids[0]
    for run in sweeps:
        place = run.info.experiment_id, sweep_id_of(run)
        charts, table = view_link(base_url, *place), view_link(base_url, *place, charts=False)
        if ours:
            charts, table = (opening_link(base_url, *place, *more) for more in ((), ("table",)))
        say(f"sweep {run.info.run_name}: {charts}")
        say(f"  as a table: {table}")
    link = opening_link if ours else all_runs_link
    say(f"all runs: {link(base_url, everything)}")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A closed terminal and SIGTERM end what is inside as Ctrl-C does; nohup keeps its say."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number in taken:
            signal.signal(number, before[number])
