"""Listeners are told in their order; one that fails is told no more, and ends nothing."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from tune.run.folder import RunFolder
from tune.run.listener import Listener, Listeners

RUN = RunFolder(Path("run"))


class Noting(Listener):
    """Notes what it hears of, and raises after the first `until`."""

    def __init__(self, until: int = 99) -> None:
        self.heard: list[str] = []
        self.until = until


def note(self: Noting, event: str, *given: Any) -> None:
    if len(self.heard) == self.until:
        raise BrokenPipeError(32, "Broken pipe")
    self.heard.append(event)


EVENTS = {"trials_began": [None], "run_began": [RUN], "epoch_ended": [RUN, {"epoch": 0}]}
EVENTS |= {"run_ended": [RUN], "sweep_changed": [RUN], "trials_ended": [], "said": ["a word"]}
for event in EVENTS:
    setattr(Noting, event, partialmethod(note, event))


def test_all_hear_of_everything_but_one_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert EVENTS.keys() == {name for name in vars(Listener) if not name.startswith("_")}
    good, failing = Noting(), Noting(until=2)
    both = Listeners(failing, good)
    for event, given in EVENTS.items():
        getattr(both, event)(*given)
    assert good.heard == [*EVENTS] and failing.heard == [*EVENTS][:2]
    assert capsys.readouterr().err == "rbnn: Noting hears no more: [Errno 32] Broken pipe\n"
