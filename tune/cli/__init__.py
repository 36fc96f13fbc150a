"""The command `rbnn`, a module for each thing people come for. Each imports what is heavy late."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int]
Argument = tuple[tuple[str, ...], dict[str, Any]]
Add = Callable[..., argparse.ArgumentParser]  # (name, what runs it, help, arguments) -> parser


def arg(*names: str, show: str = "", **given: Any) -> Argument:
    """An argument: its names, then as `add_argument` takes it; show: its value in the help."""
    return names, given | ({"metavar": show} if show else {})


def flag(name: str, help: str) -> Argument:
    """An option without a value."""
    return arg(name, action="store_true", help=help)


_text = "folder that holds the sweeps (default ./result)"
RESULTS = arg("--results_dir", show="DIR", default="", help=_text)
JSON = flag("--json", "print it as JSON")
SWEEP = arg("sweep", show="SWEEP", help="name of the sweep, or its folder")
_text = "name or folder (default: the latest)"
ANY_SWEEP = arg("sweep", show="SWEEP", nargs="?", default="", help=_text)
_text = "Ray cluster to run on (default: RAY_ADDRESS, or here)"
RAY = arg("--address", show="ADDRESS", default="", help=_text)
TENSORBOARD = flag("--tensorboard", "write TensorBoard's event files, into the runs' folders")
