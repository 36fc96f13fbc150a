"""Why a sweep ends early: a signal, `rbnn stop`, its budget, equal failures, a full disk."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any, TypeVar, cast

from tune.cluster.daemons import lost_of_own_ray

Method = TypeVar("Method", bound=Callable[..., Any])
POLL_INTERVAL_S, AGAIN_S = 0.5, 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = (
    "rbnn: stopping: what runs ends at its next step, then all is recorded; to leave at once: "
    "Ctrl-\\, and rbnn doctor --fix puts it in order\n"
)
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
        if self.is_set():  # what Ray does from here on, or that it is gone, changes nothing
            return True
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


class Broken(BaseException):
    """A sweep cannot go on, for the reason that this is raised from. It is no Exception, which Ray
    Tune would take for a trial's failure, and tell the study so.
    """


def breaking(method: Method) -> Method:
    """A method that Ray Tune calls in the sweep's process: what it raises ends the sweep."""

    @functools.wraps(method)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return method(*given, **named)
        except Exception as error:
            raise Broken from error

    return cast(Method, call)


def stopper(stop: StopSignal | None, has_ended: Callable[[int], bool]) -> Any:
    """Ray Tune's stopper: of a sweep by a StopSignal, of a trial that somebody else ended."""
    from ray.tune import Stopper

    class StopWhenSet(Stopper):
        @breaking
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return has_ended(result["config"]["number"])

        @breaking
        def stop_all(self) -> bool:
            return stop is not None and stop.poll()

        def __reduce__(self) -> tuple[Any, ...]:
            # Ray pickles it into its state files; the event belongs to this process alone.
            return stopper, (None, bool)

    return StopWhenSet()


class Interruption:
    """What Ctrl-C, SIGTERM and a closed terminal do to a sweep's process; use as a context around
    all that it does.

    The first signal ends the sweep in good order (while no trial runs yet: by KeyboardInterrupt).
    The second, while trials run, raises KeyboardInterrupt, for what waits for Ray. Any further one
    only says that the end is being recorded, so that nothing is left half recorded. SIGHUP stays
    ignored where it was, as under nohup; SIGINT, which a script's shell ignores for what it starts
    with &, does not: who sends it there means it.
    """

    def __init__(self) -> None:
        self.stop: StopSignal | None = None  # of the trials that run now
        self.num_received = 0
        self._before: dict[int, Any] = {}
        self._dropped: Callable[[Any], object] = sys.unraisablehook

    def __enter__(self) -> Interruption:
        sys.unraisablehook = self._again
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        sys.unraisablehook = self._dropped
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, again after whoever sets his own, as ray.init does."""
        for number, before in self._before.items():
            if number != signal.SIGHUP or before != signal.SIG_IGN:
                signal.signal(number, self.handle)

    def _again(self, dropped: Any) -> None:
        """Python drops what is raised while an object is cleared away: the signal comes again."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            self._dropped(dropped)
            return
        self.num_received -= 1
        Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()

    def handle(self, number: int, frame: Any) -> None:
        self.num_received += 1
        if self.num_received == 1 and self.stop is not None:
            self.stop.because(SIGNAL)
            return
        if self.num_received > 1:
            self._say()
        if self.num_received == 1 or (self.num_received == 2 and self.stop is not None):
            raise KeyboardInterrupt

    def _say(self) -> None:
        """Say what goes on; written past Python's streams, which may be in use at this moment."""
        with suppress(OSError):
            os.write(2, STOPPING.encode())


@contextmanager
def left_without_gcs(signals: Interruption, stop: StopSignal) -> Iterator[None]:
    """Interrupt what waits for Ray, within, once a sweep that stops has lost its Ray's GCS: after a
    minute of that Ray ends this process, with nothing recorded.
    """
    done = Event()

    def watch() -> None:
        while not done.wait(POLL_INTERVAL_S):
            if stop.is_set() and lost_of_own_ray() == "gcs_server":
                signals.num_received = max(signals.num_received, 1)
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
