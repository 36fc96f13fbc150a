"""The accuracies that the documented recipes are known by."""

from __future__ import annotations

from typing import Any

from rbnn.recipe import RECIPE_DIR, read_yaml


def documented_accuracies() -> dict[str, dict[str, Any]]:
    """Recipe name -> top1, top5 (percent) and spread ([low, high] of top1), each where it is
    documented.
    """
    return read_yaml(RECIPE_DIR / "documented.yaml", "file")
