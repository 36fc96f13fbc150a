"""Why a run or a trial failed, in one line, without Ray's wrapping."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rbnn.errors import NonFiniteLoss, RequestError, RunFailed

OUT_OF_MEMORY = "out of memory"
# What PyTorch, cuDNN, Ray's memory monitor and Python say when memory runs out.
MEMORY_SIGNS = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "OutOfMemoryError",
    "MemoryError",
    "can't allocate memory",
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FULL_SQLITE = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR")
GONE = "its process ended"
KILLED = "died: its process was killed, perhaps for lack of memory"


def cause_of(error: BaseException) -> str:
    """The last line of what a worker raised, without Ray's wrapping."""
    if workers := getattr(error, "worker_failures", None):
        return cause_of(next(iter(workers.values())))
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException) and inner is not error:
        return cause_of(inner)
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def failure_cause(trial: Any) -> str:
    """Why a trial of Ray Tune's failed, from the file that Ray has just written
    (`get_pickled_error` reads its later copy). Raises what it raised where that is the disk's
    doing, which no other trial fares better with.
    """
    from ray import cloudpickle

    file = trial.pickled_error_file
    if not file or not Path(file).is_file():
        return GONE
    error: Exception = cloudpickle.loads(Path(file).read_bytes())
    if disk_trouble(error):
        raise error
    return named(cause_of(error), f"{type(error).__name__}: {error}")


def named(cause: str, whole: str = "") -> str:
    """The cause; begun with "out of memory" where it, or the `whole` error, says so in its way."""
    if cause.startswith(OUT_OF_MEMORY) or not any(sign in cause + whole for sign in MEMORY_SIGNS):
        return cause
    remedy = "lower batch_size, or give a trial more (gpus_per_trial, fewer at once)"
    return f"{OUT_OF_MEMORY}: {cause}; {remedy}"


def disk_trouble(error: BaseException | None) -> str:
    """Why a disk takes no more, as it is full, over its quota or read-only, where that is behind an
    error, of Ray's and of a database's too; "" where it is not.
    """
    rest, seen = [error], set[int]()
    while rest:
        one = rest.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in FULL:
            return f"{one.strerror}: {one.filename}" if one.filename else str(one.strerror)
        if getattr(one, "sqlite_errorname", "").startswith(FULL_SQLITE):
            return str(one)
        names = ("__cause__", "__context__", "cause", "orig", "controller_failure")
        rest += [getattr(one, name, None) for name in names]
        rest += getattr(one, "worker_failures", {}).values()
    return ""


def full_disk(trouble: str) -> tuple[str, str]:
    """(cause, remedy) of a disk's trouble."""
    is_closed = "read-only" in trouble.lower() or "readonly" in trouble.lower()
    return f"the disk takes no more: {trouble}", "make it writable" if is_closed else "make room"


@contextmanager
def naming_the_disk() -> Iterator[None]:
    """Raise a disk's trouble as itself: torch hides it behind an error of its own, and Ray takes
    along that one alone.
    """
    try:
        yield
    except Exception as error:
        if trouble := disk_trouble(error):
            raise OSError(errno.ENOSPC, trouble) from None
        raise


def end_of(error: BaseException) -> tuple[Literal["killed", "failed"], str]:
    """(state, cause) of a run that an error ends: stopped by people, or failed."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "killed", ""
    named_by_us = isinstance(error, (RunFailed, RequestError))
    return "failed", str(error) if named_by_us else f"{type(error).__name__}: {error}"


def lasting_error(worker_exceptions: Mapping[int, Exception]) -> Exception | None:
    """The first of the workers' errors that would come again: recipe, data and disk stay."""
    for _, error in sorted(worker_exceptions.items()):
        if isinstance(error, (RequestError, NonFiniteLoss)) or disk_trouble(error):
            return error
    return None


def failure_causes(worker_exceptions: Mapping[int, Exception]) -> dict[int, str]:
    """Rank -> what became of it; of the dead ones only where any is, as the others then fail for
    lack of it. Of a dead process Ray Train says that its health check failed, and why.
    """
    from ray.exceptions import RayActorError

    dead = {}
    for rank, error in worker_exceptions.items():
        if isinstance(getattr(error, "health_check_failure", error), RayActorError):
            dead[rank] = KILLED
    return dead or {rank: f"failed: {cause_of(each)}" for rank, each in worker_exceptions.items()}
