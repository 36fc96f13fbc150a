"""Listeners are told in their order; one that fails is told no more, and ends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tune.run.folder import RunFolder
from tune.run.listener import Listener, Listeners


class Noting(Listener):
    """Notes which events it hears of, and raises after the first `until`."""

    def __init__(self, until: int = 99) -> None:
        self.heard: list[str] = []
        self.until = until

    def _note(self, event: str) -> None:
        if len(self.heard) == self.until:
            raise BrokenPipeError(32, "Broken pipe")
        self.heard.append(event)

    def run_began(self, run: RunFolder) -> None:
        self._note("run began")

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        self._note("epoch ended")

    def run_ended(self, run: RunFolder) -> None:
        self._note("run ended")

    def sweep_changed(self, sweep: RunFolder) -> None:
        self._note("sweep changed")

    def trials_began(self, table: Any) -> None:
        self._note("trials began")

    def trials_ended(self) -> None:
        self._note("trials ended")

    def said(self, text: str) -> None:
        self._note(text)


def test_all_hear_of_everything_but_one_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    good, failing = Noting(), Noting(until=2)
    both, run = Listeners(failing, good), RunFolder(Path("run"))
    both.trials_began(None)
    both.run_began(run)
    both.epoch_ended(run, {"epoch": 0})
    both.run_ended(run)
    both.sweep_changed(run)
    both.trials_ended()
    both.said("a word")
    expected = ["trials began", "run began", "epoch ended", "run ended", "sweep changed"]
    assert good.heard == [*expected, "trials ended", "a word"]
    assert failing.heard == expected[:2]
    assert capsys.readouterr().err == "rbnn: Noting hears no more: [Errno 32] Broken pipe\n"
