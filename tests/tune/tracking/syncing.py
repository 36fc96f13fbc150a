"""What processes of test_mirror do: a module of its own, as each of them loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune.tracking.mirror import Mirror


def sync_often(directory: Path, store: str, times: int, begun: Any) -> None:
    begun.set()
    for _ in range(times):
        Mirror.open(store).sync(directory)
