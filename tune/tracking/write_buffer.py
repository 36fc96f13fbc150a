"""WriteBuffer: a thread that carries writes out, so that training waits for no store; while it is
away they wait in a file.

Healthy: writes queue in memory. When one fails because the store does not answer, all that wait go
to pending.jsonl, and so does what comes after, until the store has taken everything. A run ends in
any case; what is left is uploaded later (`tune.tracking.pending.upload_pending`).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.errors import RequestError, one_line
from tune.run.environment import without_secrets
from tune.tracking.store_writes import Applier, Write

PENDING = "pending.jsonl"
FORMAT, VERSION = "rbnn-pending", 1
MAX_QUEUED = 10_000
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
CLOSE_PATIENCE_S = 60.0
REFUSED_AFTER = 3  # attempts while the store does answer


def say(line: str) -> None:
    """To people, beside what a command prints."""
    print(f"rbnn: {line}", file=sys.stderr, flush=True)


class WriteBuffer:
    """Carries out writes in order, in its own thread. reachable: whether the store answers at all,
    asked after a failure.
    """

    def __init__(
        self,
        applier: Applier,
        folder: Path,
        header: dict[str, str],
        reachable: Callable[[], bool],
        *,
        say: Callable[[str], Any] = say,
    ) -> None:
        self.applier, self.reachable, self.say = applier, reachable, say
        self.file = folder / PENDING
        self.header = {"format": FORMAT, "version": VERSION, **header}
        self._queue: deque[Write] = deque()
        self._waiting = threading.Condition()
        self._pending = self._take_up()  # writes go to the file
        self._taken = 0  # lines of the file that are carried out
        self._attempts = 0
        self._was_away = False
        self._busy = False
        self._closing = False
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)
        self._thread.start()

    @property
    def away(self) -> bool:
        """Whether writes wait in the file."""
        return self._pending

    def put(self, write: Write) -> None:
        """Take a write, at once."""
        with self._waiting:
            if not self._pending and len(self._queue) >= MAX_QUEUED:
                self._to_file()
            if self._pending:
                self._append([write])
            else:
                self._queue.append(write)
            self._waiting.notify_all()

    def flush(self, timeout_s: float = CLOSE_PATIENCE_S) -> bool:
        """Wait until everything is carried out; False where it is not by then."""
        deadline = time.monotonic() + timeout_s
        with self._waiting:
            while self._queue or self._pending or self._busy:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._waiting.wait(min(left, 0.5))
        return True

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> bool:
        """Carry out what is left and end the thread; False, having said so, where the store stayed
        away.
        """
        if self._was_away:
            self.say(
                f"the MLflow store does not answer; waiting up to {patience_s:.0f} s for it "
                f"before leaving {self.file}"
            )
        with self._waiting:
            self._closing = True
            self._give_up_at = time.monotonic() + patience_s
            self._waiting.notify_all()
        self._thread.join()
        if self._pending:
            self.say(
                f"what the MLflow store did not take is in {self.file}; rbnn doctor --fix "
                "uploads it"
            )
        return not self._pending

    def _run(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            with self._waiting:
                while not (self._queue or self._pending or self._closing):
                    self._waiting.wait()
                if (
                    self._closing
                    and not self._queue
                    and (not self._pending or time.monotonic() >= self._give_up_at)
                ):
                    return
                self._busy = True
            went_on = self._drain_file() if self._pending else self._take_next()
            with self._waiting:
                self._busy = False
                self._waiting.notify_all()
                if went_on:
                    delay = FIRST_RETRY_S
                    continue
                self._waiting.wait_for(
                    lambda: self._closing and time.monotonic() >= self._give_up_at, timeout=delay
                )
                delay = min(2 * delay, LONGEST_RETRY_S)

    def _take_next(self) -> bool:
        """Carry out the first write of the queue; where the store is away, move the queue to the
        file.
        """
        write = self._queue[0]
        done = self._carried_out(write)
        with self._waiting:
            if done:
                if (
                    self._queue and self._queue[0] is write
                ):  # else it went to the file with a full queue, and is repeated
                    self._queue.popleft()
                return True
            self._was_away = True
            self.say(f"the MLflow store does not answer; what it is to hold waits in {self.file}")
            self._to_file()
        return False

    def _drain_file(self) -> bool:
        """Carry out what the file holds, as far as the store takes it; True when there is nothing
        left.
        """
        if not self.reachable():
            return False
        while True:
            with self._waiting:
                writes = read_pending(self.file)[self._taken :]
                if not writes:
                    self.file.unlink(missing_ok=True)
                    self._pending, self._taken = False, 0
                    if self._was_away:
                        self.say("the MLflow store answers again, and has everything")
                    self._was_away = False
                    return True
            for write in writes:
                if not self._carried_out(write):
                    return False
                self._taken += 1

    def _carried_out(self, write: Write) -> bool:
        """Whether a write is done with: the store took it, or refused it for good,
        which is said.
        """
        try:
            self.applier.apply(write)
        # Training goes on, whatever the store's client raises; what it was is said below.
        except Exception as error:
            self._attempts += 1
            if is_outage(error) and (self._attempts < REFUSED_AFTER or not self.reachable()):
                return False
            reason = without_secrets(one_line(error))[:300]
            self.say(
                f"the MLflow store refuses to record {write['op']} of run {write.get('run', '')}: "
                f"{reason}"
            )
        self._attempts = 0
        return True

    def _take_up(self) -> bool:
        """Whether an earlier process left writes here, which then come first; the file is from now
        on this process's.
        """
        if not self.file.is_file():
            return False
        meant = header_of(self.file).get("store")
        if meant != self.header["store"]:
            raise RequestError(
                f"file '{self.file}' holds what the MLflow store {meant} did not take, and the "
                "store is now "
                f"{self.header['store']}; upload it first: rbnn doctor --fix"
            )
        lines = [
            json.dumps(content, allow_nan=False)
            for content in (self.header, *read_pending(self.file))
        ]
        self._begin(lines)
        return True

    def _begin(self, lines: list[str]) -> None:
        """Replace the file; it is never seen without its first line, which says whose it is."""
        begun = self.file.with_name(f".{self.file.name}.partial")
        begun.write_text("\n".join(lines) + "\n")
        begun.replace(self.file)

    def _to_file(self) -> None:
        self._pending, self._taken = True, 0
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.file.is_file():
            self._begin([json.dumps(self.header)])
        self._append(list(self._queue))
        self._queue.clear()

    def _append(self, writes: list[Write]) -> None:
        with self.file.open("a") as file:
            file.writelines(json.dumps(write, allow_nan=False) + "\n" for write in writes)


def is_outage(error: Exception) -> bool:
    """Whether the error may pass by itself: no answer, a server's own failure, a locked
    database.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, MlflowException):
        return error.error_code in (
            "INTERNAL_ERROR",
            "TEMPORARILY_UNAVAILABLE",
            "REQUEST_LIMIT_EXCEEDED",
        )
    return isinstance(error, (RequestException, DBAPIError, ConnectionError, TimeoutError))


def header_of(file: Path) -> dict[str, Any]:
    """The first line of such a file: store (without a password), experiment, process; {} where it
    is something else.
    """
    try:
        found = json.loads(file.read_text().partition("\n")[0])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_pending(file: Path) -> list[Write]:
    """The writes in such a file, without a last line that a kill cut short; RequestError where it
    is something else.
    """
    lines = file.read_text().splitlines()
    writes = []
    for number, line in enumerate(lines):
        try:
            writes.append(json.loads(line))
        except ValueError:
            if number + 1 < len(lines):
                raise RequestError(
                    f"file '{file}' is damaged in line {number + 1}; repair or delete it"
                ) from None
    if not writes or writes[0].get("format") != FORMAT or writes[0].get("version") != VERSION:
        raise RequestError(f"file '{file}' holds no pending records of this program; delete it")
    return writes[1:]
