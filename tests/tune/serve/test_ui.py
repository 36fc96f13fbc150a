"""The MLflow page: links that hold exactly a sweep, and a server that leaves no process behind."""

from __future__ import annotations

import json
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
from tune.serve.mlflow import free_port, mlflow_server
from tune.serve.ui import all_runs_link, serve_ui
from tune.tracking.mirror import Tracker
from tune.tracking.view import (
    MAX_OPTIONS,
    TAG,
    save_view,
    searched_options,
    view_key,
    view_link,
    view_state,
)

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


def test_the_link_of_a_view_is_encoded_and_has_no_filter_that_would_override_it() -> None:
    link = view_link("http://127.0.0.1:5000/", "7", "a & b #1 100%")
    assert link.startswith(
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&"
    )
    assert query_of(link)["viewStateShareKey"] == [view_key("a & b #1 100%")] == ["a---b--1-100-"]
    assert "searchFilter" not in link and "orderBy" not in link
    assert "compareRunsMode" not in view_link("http://127.0.0.1:5000/", "7", "a", charts=False)


def test_a_view_fits_an_experiment_tag_whatever_is_searched() -> None:
    options = [f"an_option_of_a_recipe_{number}" for number in range(MAX_OPTIONS)]
    assert len(json.dumps(view_state("a-sweep-of-some-name-20261123-141612", options))) < 5000


def test_the_link_to_all_runs_takes_an_earlier_filter_back() -> None:
    assert "&searchFilter=&" in all_runs_link("http://127.0.0.1:5000", "7")


def test_a_name_with_both_quotation_marks_is_refused() -> None:
    with pytest.raises(RequestError, match="both kinds of quotation marks"):
        view_state('it\'s "it"', ["lr"])


def test_the_saved_view_holds_exactly_the_trials_and_the_searched_options(tmp_path: Path) -> None:
    tracker, parent = filled_store(tmp_path)
    space = {"lr": {"log": [0.01, 1]}, "momentum": {"fixed": 0.9}, "warm_up": "boolean"}
    tracker.log_dict(parent, {"space": space}, "sweep.yaml")
    save_view(tracker, "first & best", searched_options(tracker, tracker.sweep_run("first & best")))
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    view = json.loads(tags[TAG + view_key("first & best")])
    found = tracker.client.search_runs([tracker.experiment_id], view["searchFilter"])
    assert {run.info.run_id for run in found} == {
        run.info.run_id for run in tracker.children(parent)
    }
    assert len(found) == 2
    assert view["selectedColumns"][:3] == ["params.`lr`", "params.`warm_up`", "metrics.`val/top1`"]


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
            fields = (
                (entry / "stat").read_text().rpartition(")")[2].split()
                if entry.name.isdigit()
                else []
            )
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
        f"sweep first & best: {view_link(base_url, tracker.experiment_id, 'first & best')}",
        f"  as a table: {view_link(base_url, tracker.experiment_id, 'first & best', charts=False)}",
        f"all runs: {all_runs_link(base_url, tracker.experiment_id)}",
    ]
    assert processes_of_session(server.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_page_and_free_the_port(tmp_path: Path, number: signal.Signals) -> None:
    tracker, _ = filled_store(tmp_path)
    port = free_port("127.0.0.1", 5500)
    code = f"from tune.serve.ui import serve_ui; serve_ui({tracker.uri!r}, {port})"
    command = [sys.executable, "-W", "ignore", "-u", "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as page:
        assert page.stdout is not None
        lines = [page.stdout.readline() for _ in range(4)]
        assert [line.partition(":")[0] for line in lines[:3]] == [
            "sweep first & best",
            "  as a table",
            "all runs",
        ]
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
        with (
            pytest.raises(RunFailed, match="did not start at"),
            mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", port),
        ):
            pass
