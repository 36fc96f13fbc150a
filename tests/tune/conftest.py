"""Shared by the tests of tune: the file in which Ray keeps why a trial failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def error_file(tmp_path: Path) -> Callable[[BaseException], Path]:
    """Writes an error raised in a trial as Ray Tune does; returns the file."""
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    def write(cause: BaseException) -> Path:
        file = tmp_path / "error.pkl"
        file.write_bytes(cloudpickle.dumps(RayTaskError("train", f"Traceback ...\n{type(cause).__name__}: {cause}", cause)))
        return file

    return write
