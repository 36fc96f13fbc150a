"""More budget for a sweep that has begun: its history stays, and its first points are not run
again.
"""

from __future__ import annotations

from rbnn.errors import RequestError
from tune.sweep.folder import SweepFolder
from tune.sweep.study import History


def extend_budget(folder: SweepFolder, trials: int | None, hours: float | None) -> None:
    """Add trials to those that the sweep has or was to have, or hours from now; RequestError where
    neither can be.
    """
    if trials is None and hours is None:
        raise RequestError("extend adds nothing; give --trials N or --hours H")
    if trials is not None and trials < 1:
        raise RequestError(f"--trials is {trials}; it must be at least 1")
    if hours is not None and not 0 < hours < float("inf"):
        raise RequestError(f"--hours is {hours:g}; it must be above 0")
    record, file = folder.record, folder.file
    history = History.existing(folder.storage_url(record), record.name)
    begun = len(history.finished) if history else 0
    if file.sampler == "grid" and begun >= len(file.space.grid()):
        raise RequestError(
            f"sweep '{record.name}' has tried its whole grid; widen the space in a new sweep"
        )
    budget = None if trials is None else max(record.trials or 0, begun) + trials
    folder.update(trials=budget, budget_s=None if hours is None else folder.used_s + hours * 3600)
