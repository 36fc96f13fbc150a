"""What a run ran on: a fixed list of names, so that nothing private is ever recorded."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tune.uris import without_secrets

if TYPE_CHECKING:
    from rbnn.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
GIT = ("git", "-C", str(ROOT))
PACKAGES: tuple[str, ...] = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
PACKAGES += ("nvidia-dali-cuda130", "rbnn-tune")
# Which kernels torch takes, hence the bits.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
COMMAND_TIMEOUT_S = 10
MAX_DIFF_BYTES = 1_000_000


@functools.cache
def environment() -> dict[str, str]:
    """What this process is made of and runs on; "" for what is not there.

    `git_commit` tells of this project's own tree; `git_dirty` is "true" where a tracked file
    differs from the commit.
    """
    from rbnn.hardware import num_cores  # loads torch, which readers of runs need not

    flags = _cpu_line("flags").split()
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cpu": _cpu_line("model name") or platform.processor(),
        "cpu_features": " ".join(name for name in CPU_FEATURES if name in flags),
        "cores": str(num_cores()),
        "gpus": ", ".join(_nvidia_smi("name")),
        "driver": "".join(_nvidia_smi("driver_version")[:1]),
        "git_commit": commit,
        "git_dirty": dirty,
        **{name: os.environ.get(name, "") for name in THREAD_VARIABLES},
        "command": without_secrets(shlex.join(sys.argv)),
    }


def run_environment(recipe: Recipe | None) -> dict[str, str]:
    """What a run of `recipe` is recorded with and compared by: `environment`, and its threads."""
    return {**environment(), **({"threads": str(recipe.threads)} if recipe else {})}


@functools.cache
def source_changes() -> str:
    """This project's tracked files against the commit, as a diff; "" where they do not differ."""
    if environment()["git_dirty"] != "true":
        return ""
    diff = without_secrets(_output(*GIT, "diff", "--no-ext-diff", "HEAD") or "")
    left_out = len(diff) - MAX_DIFF_BYTES
    if left_out <= 0:
        return diff + "\n"
    return f"{diff[:MAX_DIFF_BYTES]}\n... and {left_out} characters more\n"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_line(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _output(*command: str) -> str | None:
    """What the command prints, or None where it is absent, fails or hangs."""
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=COMMAND_TIMEOUT_S
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _nvidia_smi(field: str) -> list[str]:
    found = _output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader") or ""
    return found.splitlines()


def gpu_memory() -> float:
    """Bytes of this machine's GPU that has least; 0 where nobody says."""
    found = [line.split()[0] for line in _nvidia_smi("memory.total")]  # of "81559 MiB" each
    return min((float(mib) for mib in found if mib.isdigit()), default=0.0) * 2**20


def _commit() -> tuple[str, str]:
    """(commit, whether changed) of the tree that holds this package; empty where it is in none."""
    if not (ROOT / ".git").exists():
        return "", ""
    changes = _output(*GIT, "status", "--porcelain", "--untracked-files=no")
    dirty = "" if changes is None else str(bool(changes)).lower()
    return _output(*GIT, "rev-parse", "HEAD") or "", dirty
