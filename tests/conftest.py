"""Shared by all tests: a seed before each, two threads, reference data, why a GPU test skips."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ |= {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000",
}  # before torch: see rbnn/threading_env.py

import numpy as np
import pytest
import torch

from rbnn.data import progress

torch.set_num_threads(2)
progress.PATIENCE_S = 600.0  # what a test waits for on a busy machine is not told


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none is left to one process at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(
                    pytest.mark.skip(reason="needs a CUDA device, and this machine has none")
                )


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.set_num_threads(2)
    random.seed(1234)
    np.random.seed(1234)
    torch.manual_seed(1234)
    yield
    torch.set_num_threads(2)  # a module's fixtures come before the next test's: compiled for two


@pytest.fixture(scope="session")
def shared_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of reference data beside the project; the test skips where it is not present."""
    path = pytestconfig.rootpath.parent / "shared"
    if not path.is_dir():
        pytest.skip("the large reference vectors (../shared) are not beside the project")
    return path


@pytest.fixture
def settings_put_back() -> Iterator[None]:
    """Undo `prepare_process`, whose settings are the process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def nullgpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a process has a pretended GPU, or NULLCUDA_DEVICES of them; skips
    where the stand-in for CUDA (rbnn/nullgpu) cannot be built.
    """
    triton = importlib.util.find_spec("triton")  # brings the CUDA runtime's headers
    packages = triton.submodule_search_locations if triton else None
    include = Path(packages[0], "backends/nvidia/include") if packages else Path()
    if not shutil.which("g++") or not (include / "crt/host_defines.h").is_file():
        pytest.skip("the stand-in for CUDA needs g++ and the CUDA runtime's headers")
    sources, folder = Path(__file__).parent / "rbnn" / "nullgpu", tmp_path_factory.mktemp("nullgpu")
    runtime, driver = folder / "nullcuda.so", folder / "libcuda.so.1"
    for source, target in (("nullcuda.cpp", runtime), ("libcuda.cpp", driver)):
        command = ["g++", "-O1", "-shared", "-fPIC", "-w", f"-I{include}", str(sources / source)]
        built = subprocess.run(
            [*command, "-o", str(target), "-ldl"], capture_output=True, text=True
        )
        if built.returncode:
            pytest.skip(f"the stand-in for CUDA does not build here: {built.stderr[:200]}")
    (folder / "libcuda.so").symlink_to(driver)
    kept = {name: text for name, text in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return kept | {
        "NULLCUDA_SO": str(runtime),
        "LD_PRELOAD": str(runtime),
        "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "TRITON_LIBCUDA_PATH": str(folder),
    }
