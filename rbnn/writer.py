"""Files written by a thread while a GPU goes on, one after the other, in the order given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does jobs at once, or, with `beside`, in a thread of its own, one at a time.

    A job's error is raised by the call that next meets it: `do`, `is_done` or `close`.
    """

    def __init__(self, beside: bool) -> None:
        self.pool = ThreadPoolExecutor(1, "rbnn-writer") if beside else None
        self.job: Future[None] | None = None

    def do(self, job: Callable[[], None]) -> None:
        """The job, once the one before it is done."""
        self.wait()
        if self.pool is None:
            job()
        else:
            self.job = self.pool.submit(job)

    def is_done(self) -> bool:
        """Whether nothing is being written."""
        if self.job is not None and self.job.done():
            self.wait()
        return self.job is None

    def wait(self) -> None:
        """Until nothing is being written."""
        if self.job is not None:
            job, self.job = self.job, None
            job.result()

    def close(self) -> None:
        """Finish what was begun, though the run failed; `wait` first to hear of an error in it."""
        if self.pool is not None:
            self.pool.shutdown()
