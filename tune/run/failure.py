"""Why a trial failed, in one line: its own error without Ray's wrapping, and out of memory said as
that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle

OUT_OF_MEMORY = "out of memory"
# What PyTorch, cuDNN, Ray's memory monitor and Python say when memory runs out.
MEMORY_SIGNS = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "OutOfMemoryError",
    "MemoryError",
    "can't allocate memory",
)
GONE = "its process ended"


def failure_cause(trial: Any) -> str:
    """Why a trial of Ray Tune's failed, from the file that Ray has just written
    (`get_pickled_error` reads its later copy).
    """
    from tune.run.workers import cause_of

    file = trial.pickled_error_file
    if not file or not Path(file).is_file():
        return GONE
    error = cloudpickle.loads(Path(file).read_bytes())
    return named(cause_of(error), f"{type(error).__name__}: {error}")


def named(cause: str, whole: str = "") -> str:
    """The cause, begun with "out of memory" where `cause` or the `whole` error says so in its own
    words.
    """
    text = f"{cause} {whole}"
    if any(sign in text for sign in MEMORY_SIGNS) and not cause.startswith(OUT_OF_MEMORY):
        return (
            f"{OUT_OF_MEMORY}: {cause}; lower batch_size, or give a trial more (gpus_per_trial, "
            "fewer at once)"
        )
    return cause
