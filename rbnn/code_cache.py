"""Where compiled code is kept between processes, without what a killed compiler left half written.

torch lets a compiler write libraries and headers under their last names. One that was killed leaves
a file that every later process takes: "file too short", "cannot read", a bus error (torch 2.15).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout  # as torch locks what it builds

CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Beside a file that is being built torch keeps a folder of that file's name, and this.
BUILDING = "_CxxBuild"
SOURCES = {".cpp", ".h"}


def cache_directory() -> Path:
    """A folder of this user's, for CPUs like this one, unless TORCHINDUCTOR_CACHE_DIR names one.
    RuntimeError: the user has no home.
    """
    named = Path(os.environ.get(CACHE) or "")
    temporary = Path(tempfile.gettempdir())
    # Importing torch's compiler sets the variable to a folder of its own choice.
    is_torchs = named.parent == temporary and named.name.startswith("torchinductor_")
    if named.name and not is_torchs:
        return named
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rbnn" / f"inductor-{processor()}"


def processor() -> str:
    """Eight hexadecimal digits that differ where the CPU's model or its instructions do: code is
    compiled for the very CPU, which a home directory may outlive or share with others.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    known = "\n".join([platform.machine(), platform.processor(), *told])
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def use_cache() -> None:
    """Let torch keep compiled code in `cache_directory`; in its own temporary folder where that
    cannot be written, or the user has no home.
    """
    from torch._inductor.runtime.runtime_utils import default_cache_dir

    torchs = Path(default_cache_dir())
    try:
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError):
        directory = torchs
    os.environ[CACHE] = str(directory)
    headers = torchs / "precompiled_headers"  # wherever the rest is
    for places, home in ((directory.glob("*"), directory), ([headers], headers)):
        for building in (found for place in places for found in place.glob(f"*{BUILDING}")):
            with contextlib.suppress(OSError):
                remove_unfinished(building, home / "locks")


def remove_unfinished(building: Path, locks: Path) -> None:
    """Remove what was built beside the folder `building`, unless a process is at it and so has
    locked its file in `locks`.
    """
    name = building.name.removesuffix(BUILDING)
    lock = FileLock(locks / f"{name.split('.')[0]}.lock", timeout=0)
    with contextlib.suppress(Timeout), lock:
        for built in building.parent.glob(f"{name}.*"):
            if built.suffix not in SOURCES:
                built.unlink(missing_ok=True)
        for left in building.iterdir():
            left.unlink(missing_ok=True)
        building.rmdir()
