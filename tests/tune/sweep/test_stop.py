"""What ends a sweep early, and what signals do to it from its beginning to its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tune.sweep import stop as stopping
from tune.sweep.stop import BUDGET, REQUEST, SIGNAL, Interruption, StopSignal, left_without_gcs


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """No signal is ignored, as some are where tests run under nohup or in the background."""
    numbers = (signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_stop_has_one_reason_and_asks_for_nothing_once_it_is_set(tmp_path: Path) -> None:
    beats: list[int] = []
    stop = StopSignal(tmp_path / "stop", beat=lambda: beats.append(1))
    assert not stop.poll() and len(beats) == 1
    stop._looked = 0.0
    (tmp_path / "stop").touch()
    assert stop.poll() and stop.reason == REQUEST and stop.by_user
    stop.because(SIGNAL)
    assert stop.poll() and stop.reason == REQUEST and len(beats) == 2
    late = StopSignal(seconds=0.0)
    assert late.poll() and late.reason == BUDGET and not late.by_user


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_the_trials_the_second_breaks_the_wait_and_no_more_disturb(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with Interruption() as signals:
        signals.stop = StopSignal()
        os.kill(os.getpid(), number)
        assert signals.stop.reason == SIGNAL and capfd.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        signals.stop = None
        for _ in range(3):
            os.kill(os.getpid(), number)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 4 and all("to leave at once: Ctrl-\\" in line for line in said)


def test_while_no_trial_runs_the_first_signal_ends_what_is_done() -> None:
    with Interruption() as signals, pytest.raises(KeyboardInterrupt):
        signals.install()  # as after ray.init
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_comes_while_an_object_is_cleared_away_is_not_lost(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Slow:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # where Python looks for signals

    with Interruption(), pytest.raises(KeyboardInterrupt):
        Slow()
        time.sleep(60)
    assert capfd.readouterr().err == ""


def test_a_signal_that_was_ignored_stays_so_and_handlers_are_put_back() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruption():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("lost", ["gcs_server", "raylet"])
def test_a_stop_waits_for_a_ray_without_its_raylet_but_not_without_its_gcs(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the first Ray Tune comes to its end; without the second it would end this process."""
    looks: list[str] = []
    monkeypatch.setattr(stopping, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(stopping, "lost_of_own_ray", lambda: looks.append(lost) or lost)
    ended = nullcontext() if lost == "raylet" else pytest.raises(KeyboardInterrupt)
    with ended, Interruption() as signals:
        signals.stop = StopSignal()
        signals.stop.because(REQUEST)
        with left_without_gcs(signals, signals.stop):
            while lost == "gcs_server" or len(looks) < 20:
                time.sleep(0.01)
    assert (len(looks) >= 20) == (lost == "raylet") and signals.stop.reason == REQUEST
