"""The engines of the extra `deploy`, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from rbnn.errors import RequestError


def needed(name: str) -> Any:
    """The module; RequestError, with how to install it, where it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise RequestError(
            f"{name.partition('.')[0]} is not installed, and packages need it; install the extra: "
            "pip install 'rbnn-tune[deploy]'"
        ) from None
