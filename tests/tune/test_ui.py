"""The MLflow page: links that hold exactly a sweep, and a server that leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from rbnn.errors import RequestError, RunFailed
from tune.tracking import Tracker
from tune.ui import all_runs_link, free_port, mlflow_server, serve_ui, sweep_link

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def query_of(link: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(urlsplit(link).fragment).query, strict_parsing=True)


def filled_store(folder: Path) -> tuple[Tracker, str]:
    """A database with a sweep of two trials and one run beside it."""
    tracker = Tracker.open(uri=f"sqlite:///{folder}/mlflow.db")
    parent = tracker.start_run("sweep", "first & best", recipe=None)
    for number in range(2):
        tags = {"rbnn.sweep": "first & best", "rbnn.trial": str(number)}
        tracker.start_run("trial", f"trial {number}", recipe=None, parent=parent, tags=tags)
    tracker.start_run("train", "beside", recipe=None)
    return tracker, parent


def test_the_sweep_link_is_encoded_and_asks_for_trials_best_first() -> None:
    link = sweep_link("http://127.0.0.1:5000/", "7", "a & b #1 100%")
    assert link.startswith("http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&")
    assert not set(" `'#") & set(link.partition("/#/")[2])
    query = query_of(link)
    assert query["searchFilter"] == ["tags.`rbnn.sweep` = 'a & b #1 100%' and tags.`rbnn.kind` = 'trial'"]
    assert (query["orderByKey"], query["orderByAsc"]) == (["metrics.`val/top1`"], ["false"])


def test_the_link_to_all_runs_takes_an_earlier_filter_back() -> None:
    assert "&searchFilter=&" in all_runs_link("http://127.0.0.1:5000", "7")


def test_a_name_with_both_quotation_marks_is_refused() -> None:
    with pytest.raises(RequestError, match="both kinds of quotation marks"):
        sweep_link("http://127.0.0.1:5000", "7", 'it\'s "it"')


def test_the_filter_of_the_link_holds_exactly_the_trials(tmp_path: Path) -> None:
    tracker, parent = filled_store(tmp_path)
    query = query_of(sweep_link("http://127.0.0.1:5000", tracker.experiment_id, "first & best"))
    found = tracker.client.search_runs([tracker.experiment_id], query["searchFilter"][0])
    assert {run.info.run_id for run in found} == {run.info.run_id for run in tracker.children(parent)}
    assert len(found) == 2


def test_a_taken_port_is_replaced_by_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 20
    with pytest.raises(RequestError, match=r"port 5000 on 203\.0\.113\.9 "):
        free_port("203.0.113.9", 5000)


def processes_of_session(session: int) -> list[int]:
    """The living processes of a session, by /proc."""
    alive = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields and int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(entry.name))
    return alive


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_server_ends_with_all_its_processes(tmp_path: Path) -> None:
    tracker, _ = filled_store(tmp_path)
    said: list[str] = []
    port = free_port("127.0.0.1", 5400)
    with mlflow_server(tracker.uri, port) as server:
        assert len(processes_of_session(server.pid)) > 1
        base_url = f"http://127.0.0.1:{port}"
        serve_ui(base_url, sweep="first & best", say=said.append)
    assert said == [
        f"sweep first & best: {sweep_link(base_url, tracker.experiment_id, 'first & best')}",
        f"all runs: {all_runs_link(base_url, tracker.experiment_id)}",
    ]
    assert processes_of_session(server.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_page_and_free_the_port(tmp_path: Path, number: signal.Signals) -> None:
    tracker, _ = filled_store(tmp_path)
    port = free_port("127.0.0.1", 5500)
    code = f"from tune.ui import serve_ui; serve_ui({tracker.uri!r}, {port})"
    command = [sys.executable, "-W", "ignore", "-u", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as page:
        assert page.stdout is not None
        lines = [page.stdout.readline() for _ in range(3)]
        assert [line.partition(":")[0] for line in lines[:2]] == ["sweep first & best", "all runs"]
        begin = time.monotonic()
        os.kill(page.pid, number)
        assert page.wait(timeout=30) == 0
        assert page.stdout.read() == ""
    assert time.monotonic() - begin < 12
    assert free_port("127.0.0.1", port) == port


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RunFailed, match="did not start at"), mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", port):
            pass
