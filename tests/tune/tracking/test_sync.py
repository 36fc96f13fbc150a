"""MirrorThread: no run waits for the store, and one that is away finds everything later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from rbnn.errors import RequestError
from tune.run.folder import RunFolder, RunInfo
from tune.tracking import sync
from tune.tracking.sync import MirrorThread


class FakeMirror:
    """Notes what is synced. away: raises as a server that does not answer; refuses: for good."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.away = self.refuses = False
        self.gate, self.raised = threading.Event(), threading.Event()
        self.gate.set()
        self.reader = SimpleNamespace(uri="fake")

    def check(self, uri: str) -> None:
        if self.away:
            raise RequestError("no answer")

    def sync(self, directory: Path) -> str:
        self.gate.wait()
        if self.away or self.refuses:
            error = MlflowException.invalid_parameter_value("bad name")
            self.raised.set()
            raise ConnectionError("no answer") if self.away else error
        self.synced.append(directory.name)
        return "id"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> FakeMirror:
    fake = FakeMirror()
    monkeypatch.setattr(sync, "check_reachable", fake.check)
    monkeypatch.setattr(sync, "FIRST_RETRY_S", 0.01)
    return fake


@pytest.fixture
def listener(mirror: FakeMirror) -> Iterator[MirrorThread]:
    made = MirrorThread(mirror)  # type: ignore[arg-type]
    yield made
    mirror.gate.set()
    made.close(0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.begin(tmp_path / "run", RunInfo(name="run"), None)


def events(listener: MirrorThread, run: RunFolder) -> None:
    listener.run_began(run)
    listener.epoch_ended(run, {"epoch": 0})
    listener.run_ended(run)
    listener.sweep_changed(run)


def test_what_changed_is_synced_and_nobody_waits(
    mirror: FakeMirror, listener: MirrorThread, run: RunFolder
) -> None:
    mirror.gate.clear()
    events(listener, run)  # returns although the store does not
    mirror.gate.set()
    assert listener.close()
    assert 1 <= len(mirror.synced) <= 2  # changes of one folder that wait become one


def test_a_store_that_was_away_gets_it_when_it_answers_again(
    mirror: FakeMirror, listener: MirrorThread, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.away = True
    listener.run_began(run)
    assert mirror.raised.wait(60)
    while "runs go on" not in (said := capsys.readouterr().err):
        time.sleep(0.01)
    mirror.away = False
    listener.run_ended(run)
    assert listener.close() and mirror.synced == ["run"]
    said += capsys.readouterr().err
    assert said.count("does not answer; runs go on") == 1 and "answers again" in said


def test_a_store_that_stays_away_is_left_with_a_word(
    mirror: FakeMirror, listener: MirrorThread, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.away = True
    events(listener, run)
    assert mirror.raised.wait(60) and not listener.close(0.1)
    assert "lacks 1 run(s), which are complete in their folders" in capsys.readouterr().err


def test_a_signal_while_the_rest_is_recorded_loses_none_of_it(
    mirror: FakeMirror, listener: MirrorThread, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.gate.clear()
    listener.run_ended(run)
    join = listener._thread.join

    def interrupted() -> None:
        monkeypatch.setattr(listener._thread, "join", join)
        mirror.gate.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(listener._thread, "join", interrupted)
    assert listener.close() and mirror.synced == ["run"]


def test_what_the_store_refuses_is_said_and_keeps_nothing_else_back(
    mirror: FakeMirror, listener: MirrorThread, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.refuses = True
    listener.run_began(run)
    assert mirror.raised.wait(60)
    mirror.refuses = False
    listener.run_ended(run)
    assert listener.close() and mirror.synced == ["run"]
    assert "refuses to record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionError(), True),
        (MlflowException("x"), True),
        (MlflowException.invalid_parameter_value("x"), False),
        (KeyError("x"), False),
    ],
)
def test_an_outage_is_told_from_a_refusal(error: Any, passing: bool) -> None:
    assert sync.is_outage(error) is passing
