"""Where compiled code lies, and what a compiler that was killed leaves there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from rbnn.code_cache import CACHE, cache_directory, processor, use_cache
from rbnn.hardware import obstacle

PROGRAM = Path(__file__).with_name("compile_small.py")
# A C++ compiler that is killed, with its caller, amid a file of the kind that {fatal} names.
COMPILER = """#!/bin/bash
for last; do
  if [ -s {fatal} ] && [[ "$last" == *.$(cat {fatal}) ]]; then
    : > {fatal}; printf gpch > "$last"; kill -9 $PPID; exit 1
  fi
done
exec {compiler} "$@"
"""


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_code_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.runtime_utils import default_cache_dir

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
    assert os.environ[CACHE] == default_cache_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", homeless)
        use_cache()
    assert os.environ[CACHE] == default_cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == ours


@pytest.mark.skipif(bool(obstacle("cpu")), reason=f"compiling: {obstacle('cpu')}")
def test_what_a_killed_compiler_began_is_built_again(tmp_path: Path) -> None:
    fatal, compiler, cache = tmp_path / "fatal", tmp_path / "g++", tmp_path / "cache"
    real = shutil.which(os.environ.get("CXX", "g++"))
    compiler.write_text(COMPILER.format(fatal=fatal, compiler=real), encoding="utf-8")
    compiler.chmod(0o755)
    told = {"CXX": str(compiler), CACHE: str(cache), "TMPDIR": str(tmp_path)}
    told |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, str(PROGRAM)]
    for kind in ("gch", "so", ""):
        fatal.write_text(kind)
        done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if kind else 0), done.stderr[-3000:]
        begun = [path.suffix for path in tmp_path.rglob("*.*") if path.stat().st_size == 4]
        assert begun == ([f".{kind}"] if kind else [])
    for place in tmp_path.glob("torchinductor_*"):  # a header takes 160 MB
        shutil.rmtree(place)


def test_what_another_process_is_building_stays(tmp_path: Path) -> None:
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
