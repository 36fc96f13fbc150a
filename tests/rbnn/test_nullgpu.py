"""What a run asks of a GPU, counted without one: under a stand-in for the CUDA runtime and driver
torch believes in an H100, Inductor generates and Triton compiles for it, and no kernel runs.

Counts are exact, so they are asserted. nullgpu/*.cpp is the stand-in, nullgpu/work.py what is run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbnn.network import obstacle

HERE = Path(__file__).parent / "nullgpu"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}


def headers() -> Path | None:
    """The CUDA runtime's headers: Triton brings them."""
    triton = importlib.util.find_spec("triton")
    folders = triton.submodule_search_locations if triton else None
    include = Path(folders[0]) / "backends" / "nvidia" / "include" if folders else None
    return include if include and (include / "crt" / "host_defines.h").is_file() else None


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a process has the pretended GPU; skips where it cannot be built."""
    include = headers()
    if not shutil.which("g++") or include is None:
        pytest.skip("the stand-in for CUDA needs g++ and the CUDA runtime's headers")
    folder = tmp_path_factory.mktemp("nullgpu")
    driver = folder / "driver"
    driver.mkdir()
    flags = ["-O1", "-shared", "-fPIC", "-w", f"-I{include}"]
    for source, target in (
        ("nullcuda", folder / "nullcuda.so"),
        ("libcuda", driver / "libcuda.so.1"),
    ):
        command = ["g++", *flags, str(HERE / f"{source}.cpp"), "-o", str(target), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"the stand-in for CUDA does not build here: {built.stderr[:200]}")
    (driver / "libcuda.so").symlink_to("libcuda.so.1")
    library = f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return ENVIRONMENT | {
        "NULLCUDA_SO": str(folder / "nullcuda.so"),
        "LD_PRELOAD": str(folder / "nullcuda.so"),
        "LD_LIBRARY_PATH": library,
        "TRITON_LIBCUDA_PATH": str(driver),
    }


def worked(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """What work.py found."""
    command = [sys.executable, str(HERE / "work.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_common(found: dict[str, Any]) -> None:
    """What holds compiled and eagerly: no step waits, copies are few, resuming and a run work."""
    assert found["step"]["syncs"] == found["step"]["d2h"] == found["step"]["h2d"] == 0
    assert found["rotation"]["syncs"] == 0
    assert found["diagnostics"]["d2h"] == found["evaluation"]["d2h"] == 1
    assert found["digest"]["d2h"] == 1
    assert found["checkpoint"]["d2h"] <= 3
    assert found["resumed"] > 0
    assert found["heard"] == ["0 True", "1 True"]


@pytest.mark.parametrize(
    ("model", "precision", "a_step", "an_evaluation"),
    [
        ("resnet20_1w1a", "float32", 1300, 1700),
        ("resnet18_1w1a", "bf16", 1740, 2010),
        ("vgg_small_1w1a", "tf32", 1300, 1700),
    ],
)
def test_an_eager_run_asks_for_what_a_gpu_has(
    environment: dict[str, str], model: str, precision: str, a_step: int, an_evaluation: int
) -> None:
    found = worked(environment, "eager", model, precision, "32")
    check_common(found)
    assert found["step"]["launches"] <= a_step and found["step"]["graphs"] == 0
    assert found["evaluation"]["launches"] <= an_evaluation


@pytest.mark.skipif(bool(obstacle("cuda")), reason=f"compiling for a GPU: {obstacle('cuda')}")
def test_a_compiled_run_is_one_graph_a_step(environment: dict[str, str]) -> None:
    found = worked(environment, "compile", "resnet20_1w1a", "float32", "256")
    check_common(found)
    step = found["step"]
    assert (step["graphs"], step["launches"] <= 3, step["graph_nodes"] <= 360) == (1, True, True)
    assert found["rotation"]["launches"] == 0 and found["rotation"]["graphs"] == 1
    assert found["diagnostics"]["launches"] <= 150
    assert found["evaluation"]["launches"] <= 20 and found["evaluation"]["graphs"] == 4
