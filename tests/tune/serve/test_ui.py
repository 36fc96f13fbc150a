"""The MLflow page: its links, and an end with every signal that leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest

from rbnn.errors import RequestError
from tests.tune.made_runs import recorded_run
from tests.tune.report.test_report import TRIALS, sweep
from tests.tune.workplace import TIMEOUT_S
from tune.serve.mlflow import free_port
from tune.serve.ui import ended_by_signals, serve_optuna, serve_ui
from tune.sweep.folder import SweepFolder
from tune.tracking.mirror import Mirror
from tune.tracking.view import all_runs_link, opening_link, view_link

PAGE = [sys.executable, "-W", "ignore", "-u", str(Path(__file__).with_name("page.py"))]
SWEEP, SWEEP_ID = "first & best", "ab" * 16


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store that holds a sweep."""
    mirror = Mirror.open(f"sqlite:///{tmp_path}/mlflow.db")
    tags = {"rbnn.sweep": SWEEP, "rbnn.sweep_id": SWEEP_ID}
    recorded_run(mirror, tmp_path, kind="sweep", name=SWEEP, tags=tags)
    return mirror.reader.uri


def test_the_link_to_all_runs_takes_an_earlier_filter_back() -> None:
    assert "&searchFilter=&" in all_runs_link("http://127.0.0.1:5000", "7")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_what_is_served_and_its_handler_is_put_back(
    number: signal.Signals,
) -> None:
    before = signal.signal(number, signal.default_int_handler)
    with ended_by_signals():
        os.kill(os.getpid(), number)
        pytest.fail("it goes on")
    assert signal.signal(number, before) == signal.default_int_handler


@pytest.mark.slow
def test_a_signal_ends_the_page_and_frees_the_port(store: str) -> None:
    port = free_port("127.0.0.1", 5500)
    command = [*PAGE, store, str(port)]
    base_url, experiment = f"http://127.0.0.1:{port}", "1"
    said: list[str] = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **pipes) as page:  # type: ignore[call-overload]
        lines = [page.stdout.readline().rstrip() for _ in range(4)]
        serve_ui(base_url, sweep=SWEEP, say=said.append)
        links = [line.partition(": ")[2] for line in lines[:2]]
        pages = [urllib.request.urlopen(link, timeout=60).read().decode() for link in links]
        page.send_signal(signal.SIGHUP)
        try:
            assert page.wait(TIMEOUT_S) == 0
        finally:
            page.kill()
        assert page.stdout.read() == ""
    place = experiment, SWEEP_ID
    assert lines[:3] == [
        f"sweep {SWEEP}: {opening_link(base_url, *place)}",
        f"  as a table: {opening_link(base_url, *place, 'table')}",
        f"all runs: {opening_link(base_url, experiment)}",
    ]
    assert said == [  # of a server that may be anybody's
        f"sweep {SWEEP}: {view_link(base_url, *place)}",
        f"  as a table: {view_link(base_url, *place, charts=False)}",
        f"all runs: {all_runs_link(base_url, experiment)}",
    ]
    assert all("sharedViewState.' + view" in page and SWEEP_ID in page for page in pages)
    assert free_port("127.0.0.1", port) == port


def test_optunas_dashboard_is_started_on_the_sweeps_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="needs the extra dashboard")
    folder, said, served = sweep(tmp_path / "look-1", TRIALS), [], []
    monkeypatch.setattr(optuna_dashboard, "run_server", lambda *given: served.append(given))
    serve_optuna(folder, 5560, say=said.append)
    ((storage, host, port),) = served
    assert said[0] == f"sweep look-1: http://{host}:{port}/dashboard"
    page = optuna_dashboard.wsgi(storage)
    status: list[str] = []
    environment = {"wsgi.input": io.BytesIO()}
    setup_testing_defaults(environment)
    environment["PATH_INFO"] = "/api/studies"
    answer = b"".join(page(environment, lambda code, *more: status.append(code)))
    (study,) = json.loads(answer)["study_summaries"]
    assert (status, study["study_name"]) == (["200 OK"], "look-1")


def test_without_optunas_dashboard_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(RequestError, match="run: pip install optuna-dashboard"):
        serve_optuna(SweepFolder(tmp_path), 5560)
