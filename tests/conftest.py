"""Shared by all tests: a fixed seed before each, two threads, the reference data, settings, and why
a GPU test skips.
"""

from __future__ import annotations

import os
import random
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
    """Files with slow tests come first, so that no process of several is left with one of them at
    the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(
                    pytest.mark.skip(reason="needs a CUDA device, and this machine has none")
                )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(1234)
    np.random.seed(1234)
    torch.manual_seed(1234)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """tests/data: reference vectors small enough to keep."""
    return Path(__file__).parent / "data"


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
