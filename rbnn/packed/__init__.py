"""Packages: a trained network as a small file that runs in 1-bit arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(folder: str | Path) -> nn.Module:
    """The network of a package in plain torch, as `rbnn.packed.weights.load` reads it; importing
    this package loads nothing.
    """
    from rbnn.packed import weights

    return weights.load(folder)
