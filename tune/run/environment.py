"""What a run ran on: a fixed list of names, so that nothing private of the process environment is
ever recorded.
"""

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
from typing import TYPE_CHECKING

from tune.uris import without_secrets

if TYPE_CHECKING:
    from rbnn.recipe import Recipe

PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "mlflow",
    "numpy",
    "nvidia-dali-cuda130",
    "rbnn-tune",
)
CPU_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)  # which kernels torch takes, hence the bits
COMMAND_TIMEOUT_S = 10
MAX_DIFF_BYTES = 1_000_000
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@functools.cache
def environment() -> dict[str, str]:
    """Python, packages, CPU, cores, GPUs, driver, commit and command line of this process; "" for
    what is not there.

    `git_commit` tells of this project's own tree; `git_dirty` is "true" where a tracked file
    differs from the commit.
    """
    gpus = _nvidia_smi("name")
    driver = _nvidia_smi("driver_version")
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cpu": _cpu_line("model name") or platform.processor(),
        "cpu_features": " ".join(
            name for name in CPU_FEATURES if name in _cpu_line("flags").split()
        ),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "gpus": ", ".join(gpus),
        "driver": driver[0] if driver else "",
        "git_commit": commit,
        "git_dirty": dirty,
        **{name: os.environ.get(name, "") for name in THREAD_VARIABLES},
        "command": without_secrets(shlex.join(sys.argv)),
    }


def run_environment(recipe: Recipe | None) -> dict[str, str]:
    """What a run of `recipe` is recorded with, and compared by: `environment`, and the threads that
    its processes use.
    """
    return {**environment(), **({"threads": str(recipe.threads)} if recipe else {})}


@functools.cache
def source_changes() -> str:
    """What this project's tracked files differ by from the commit, as a diff; "" where
    they do not.
    """
    if environment()["git_dirty"] != "true":
        return ""
    diff = without_secrets(
        _output("git", "-C", str(_root()), "diff", "--no-ext-diff", "HEAD") or ""
    )
    rest = f"\n... and {len(diff) - MAX_DIFF_BYTES} characters more\n"
    return diff + "\n" if len(diff) <= MAX_DIFF_BYTES else diff[:MAX_DIFF_BYTES] + rest


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_line(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next(
        (
            line.partition(":")[2].strip()
            for line in lines
            if line.partition("\t")[0].strip() == key
        ),
        "",
    )


def _output(*command: str) -> str | None:
    """What the command prints, or None where it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _nvidia_smi(field: str) -> list[str]:
    return (
        _output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader") or ""
    ).splitlines()


def _commit() -> tuple[str, str]:
    """The commit of the tree that holds this package and whether it is changed; empty where it is
    not a tree of its own.
    """
    root = _root()
    if not (root / ".git").exists():
        return "", ""
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD") or ""
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return commit, "" if changes is None else str(bool(changes)).lower()
