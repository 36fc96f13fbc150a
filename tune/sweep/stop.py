"""Why a sweep ends before its last trial: Ctrl-C, `rbnn stop`, its time budget, equal failures."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

POLL_INTERVAL_S = 0.5
SIGNAL, REQUEST, BUDGET = "interrupted", "stopped by rbnn stop", "time budget used up"


class StopSignal(Event):
    """Set once, with its reason; by `file` when it appears, after `seconds`. beat: called often."""

    def __init__(
        self,
        file: Path | None = None,
        seconds: float | None = None,
        beat: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.reason = ""
        self.file, self.beat = file, beat
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._looked = 0.0

    def because(self, reason: str) -> None:
        """Stop, for that reason, unless it is stopping already."""
        self.reason = self.reason or reason
        self.set()

    def poll(self) -> bool:
        """Whether to stop; looks at the clock and, now and then, for the file."""
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self.because(BUDGET)
        if now - self._looked >= POLL_INTERVAL_S:
            self._looked = now
            if self.file and self.file.exists():
                self.because(REQUEST)
            if self.beat:
                self.beat()
        return self.is_set()

    @property
    def by_user(self) -> bool:
        """Whether somebody asked for it."""
        return self.reason in (SIGNAL, REQUEST)


def stopper(stop: StopSignal | None, has_ended: Callable[[int], bool]) -> Any:
    """Ray Tune's stopper: of a sweep by a StopSignal of this process, of a trial that was ended in
    the study by somebody else.
    """
    from ray.tune import Stopper

    class StopWhenSet(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return has_ended(result["config"]["number"])

        def stop_all(self) -> bool:
            return stop is not None and stop.poll()

        def __reduce__(self) -> tuple[Any, ...]:
            # Ray pickles it into its state files; the event belongs to this process alone.
            return stopper, (None, bool)

    return StopWhenSet()


@contextmanager
def set_by_signals(stop: StopSignal) -> Iterator[None]:
    """Within it, SIGINT (Ctrl-C) and SIGTERM set `stop`; a second one raises KeyboardInterrupt."""

    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        stop.because(SIGNAL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
