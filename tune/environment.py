"""What a run ran on: a fixed list of names, so that nothing private of the process environment is ever recorded."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "nvidia-dali-cuda130", "rbnn-tune")
COMMAND_TIMEOUT_S = 10


@functools.cache
def environment() -> dict[str, str]:
    """Python, packages, CPU, cores, GPUs, driver, commit and command line of this process; "" for what is not there.

    `git_commit` tells of this project's own tree; `git_dirty` is "true" where a tracked file differs from the commit.
    """
    gpus = _nvidia_smi("name")
    driver = _nvidia_smi("driver_version")
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "gpus": ", ".join(gpus),
        "driver": driver[0] if driver else "",
        "git_commit": commit,
        "git_dirty": dirty,
        "command": shlex.join(sys.argv),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _output(*command: str) -> str | None:
    """What the command prints, or None where it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _nvidia_smi(field: str) -> list[str]:
    return (_output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader") or "").splitlines()


def _commit() -> tuple[str, str]:
    """The commit of the tree that holds this package and whether it is changed; empty where it is not a tree of its own."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "", ""
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD") or ""
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return commit, "" if changes is None else str(bool(changes)).lower()
