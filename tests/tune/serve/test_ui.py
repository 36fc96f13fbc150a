"""The MLflow page: its links, and an end with every signal that leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune.made_runs import recorded_run
from tests.tune.workplace import TIMEOUT_S
from tune.serve.mlflow import free_port
from tune.serve.ui import all_runs_link, serve_ui
from tune.tracking.mirror import Mirror
from tune.tracking.view import view_link

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_page_and_free_the_port(store: str, number: signal.Signals) -> None:
    port = free_port("127.0.0.1", 5500)
    command = [*PAGE, store, str(port)]
    base_url, experiment = f"http://127.0.0.1:{port}", "1"
    said: list[str] = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **pipes) as page:  # type: ignore[call-overload]
        lines = [page.stdout.readline().rstrip() for _ in range(4)]
        serve_ui(base_url, sweep=SWEEP, say=said.append)
        page.send_signal(number)
        try:
            assert page.wait(TIMEOUT_S) == 0
        finally:
            page.kill()
        assert page.stdout.read() == ""
    assert (
        said
        == lines[:3]
        == [
            f"sweep {SWEEP}: {view_link(base_url, experiment, 'ab' * 16)}",
            f"  as a table: {view_link(base_url, experiment, 'ab' * 16, charts=False)}",
            f"all runs: {all_runs_link(base_url, experiment)}",
        ]
    )
    assert free_port("127.0.0.1", port) == port
