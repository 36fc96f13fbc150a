"""Where compiled code lies, and what a compiler that was killed leaves there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rbnn.code_cache import CACHE, cache_directory, processor, use_cache
from rbnn.hardware import obstacle

PROGRAM = Path(__file__).with_name("compile_small.py")
# A C++ compiler that ends as under SIGKILL to all, its library begun, if `once` exists.
COMPILER = """#!/bin/bash
while [ $# -gt 0 ] && [ -e {once} ]; do
  if [ "$1" = -o ] && [[ "$2" == *.so ]]; then rm {once}; : > "$2"; kill -9 $PPID; exit 1; fi
  kept+=("$1"); shift
done
exec {compiler} "${{kept[@]}}" "$@"
"""


def test_code_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = tmp_path / "rbnn" / f"inductor-{processor()}"
    assert cache_directory() == ours
    use_cache()
    assert cache_directory().is_dir() and os.environ[CACHE] == str(ours)
    monkeypatch.setenv(CACHE, str(tmp_path / "other"))
    assert cache_directory() == tmp_path / "other"
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "below"))
    use_cache()
    assert CACHE not in os.environ
    monkeypatch.setenv(CACHE, f"{tempfile.gettempdir()}/torchinductor_somebody")  # torch's own
    assert cache_directory() == ours


@pytest.mark.skipif(bool(obstacle("cpu")), reason=f"compiling: {obstacle('cpu')}")
def test_a_library_whose_compiler_was_killed_is_built_again(tmp_path: Path) -> None:
    once, compiler = tmp_path / "once", tmp_path / "g++"
    once.touch()
    real = shutil.which(os.environ.get("CXX", "g++"))
    compiler.write_text(COMPILER.format(once=once, compiler=real), encoding="utf-8")
    compiler.chmod(0o755)
    directory = tmp_path / "cache"
    told = {"CXX": str(compiler), CACHE: str(directory), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, str(PROGRAM)]
    for expected in (-signal.SIGKILL, 0):
        done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr[-3000:]
        empty = [path for path in directory.rglob("*.so") if not path.stat().st_size]
        assert len(empty) == (expected != 0)
    assert not [*directory.glob("*/*_CxxBuild")]


def test_what_another_process_is_building_stays(tmp_path: Path) -> None:
    from torch.utils._filelock import FileLock

    building = tmp_path / "ab" / "cab.main_CxxBuild"
    building.mkdir(parents=True)
    library, source = building.with_name("cab.main.so"), building.with_name("cab.main.cpp")
    library.touch()
    source.touch()
    (tmp_path / "locks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path))
        with FileLock(tmp_path / "locks" / "cab.lock"):
            use_cache()
            assert library.exists() and building.is_dir()
        use_cache()
    assert source.exists() and not library.exists() and not building.exists()
