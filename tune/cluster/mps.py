"""CUDA's MPS (Multi-Process Service): what processes that share a GPU launch then runs at the same
time, where the GPU would give each its turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
TIMEOUT_S = 30


@contextmanager
def served(wanted: bool) -> Iterator[dict[str, str]]:
    """The environment variables of processes that share GPUs by MPS, whose daemon ends with it.

    None where it is not wanted or not installed, or where one runs already, which processes find.
    Where the daemon does not start, a line says so, and they use a GPU in turns.
    """
    control = shutil.which(CONTROL)
    if not wanted or not control or os.environ.get(PIPES) or DEFAULT_PIPES.exists():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="rbnn-mps-", ignore_cleanup_errors=True) as folder:
        own = {PIPES: folder, LOGS: folder}
        # All GPUs by their own numbers: Ray hands these out, whatever this process may see.
        environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | own
        if not _ask([control, "-d"], environment):
            print("rbnn: CUDA's MPS does not start; trials use a GPU in turns", file=sys.stderr)
            yield {}
            return
        try:
            yield own
        finally:
            _ask([control], environment, "quit\n")


def _ask(command: list[str], environment: dict[str, str], said: str = "") -> bool:
    """Whether the daemon's program did what it was asked."""
    to = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, env=environment, input=said.encode(), stdout=to, stderr=to, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
