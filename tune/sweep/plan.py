"""A sweep as it will run here: its recipe resolved, its data opened, its trials placed; nothing is
started.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rbnn.data import describe_data
from rbnn.data.loading import DataInfo
from rbnn.errors import RecipeError
from rbnn.hardware import gpu_ids
from rbnn.recipe import Recipe
from tune.cluster.resources import Capacity
from tune.run.remote import check_storage, folder_of, store_of
from tune.run.workers import DRIVER_SHARE
from tune.sweep.config import SweepConfig, check_name
from tune.sweep.folder import SweepFolder
from tune.sweep.placement import place_here, place_on_cluster

# fewer trials than this for each that runs at once would leave the sampler nothing to learn from
TRIALS_PER_SLOT = 4


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as it will run on this machine: checked, nothing started.

    recipe: the baseline with workers and threads resolved; concurrent: trials at once; cpus, gpus:
    what one trial takes. worker_resources: of each of several workers, on a cluster; None as the
    trial's machine allows.
    """

    file: SweepConfig
    name: str
    directory: Path
    recipe: Recipe
    data: DataInfo
    concurrent: int
    cpus: float
    gpus: float
    worker_resources: dict[str, float] | None = None

    @property
    def gpus_of_trial(self) -> float:
        """GPUs that a trial takes, with all of its workers."""
        workers = self.recipe.train_workers
        if workers == 1:
            return self.gpus
        return (
            workers * self.worker_resources.get("GPU", 0.0)
            if self.worker_resources
            else float(len(gpu_ids(self.recipe)))
        )

    @property
    def elsewhere(self) -> dict[str, Any]:
        """What `run_trial` must know on a cluster: the address of the sweep's checkpoints, and what
        each worker takes.
        """
        store = store_of(self.file.storage_path, self.name)
        resources = self.worker_resources
        return ({"store": store} if store else {}) | (
            {"worker_resources": resources} if resources else {}
        )


def plan(
    file: SweepConfig, *, name: str = "", results_dir: str = "", capacity: Capacity | None = None
) -> SweepPlan:
    """Resolve a sweep file on this machine, or on the cluster of that capacity, and open its data.

    RecipeError or DataError, one line, where it cannot run.
    """
    check_name(name)
    check_storage(file.storage_path, len(capacity.nodes) if capacity else 1)
    recipe, gpus, concurrent = _place(file, max(1, file.trials // TRIALS_PER_SLOT), capacity)
    name = name or f"{file.name}-{datetime.now():%Y%m%d-%H%M%S}"
    directory = folder_of(file.storage_path, results_dir, recipe.results_dir) / name
    if directory.exists():
        begun = SweepFolder(directory)
        go_on = f", or go on with it: rbnn resume {begun.handle}" if begun.exists else ""
        raise RecipeError(
            f"{'sweep' if begun.exists else 'folder'} '{name}' exists in {directory}; choose "
            f"another --name{go_on}"
        )
    return _plan(file, name, directory, recipe, concurrent, gpus, capacity)


def plan_again(
    file: SweepConfig,
    recipe: Recipe,
    name: str,
    directory: Path,
    at_once: int,
    capacity: Capacity | None,
) -> SweepPlan:
    """The plan of a sweep that began earlier, with the recipe as resolved then, which its
    checkpoints belong to.

    at_once: trials at once as planned then; fewer where this machine, or this cluster, is smaller.
    Raises as `plan` does.
    """
    check_storage(file.storage_path, len(capacity.nodes) if capacity else 1)
    _, gpus, concurrent = _place(
        dataclasses.replace(file, baseline=recipe, concurrent=0), at_once, capacity
    )
    return _plan(file, name, directory, recipe, concurrent, gpus, capacity)


def _plan(
    file: SweepConfig,
    name: str,
    directory: Path,
    recipe: Recipe,
    concurrent: int,
    gpus: float,
    capacity: Capacity | None,
) -> SweepPlan:
    recipe = recipe.replace(
        data_path=str(Path(recipe.data_path).absolute())
    )  # trials run in working directories of their own
    data = describe_data(recipe)
    if recipe.train_workers == 1:
        return SweepPlan(
            file, name, directory, recipe, data, concurrent, float(recipe.threads), gpus
        )
    worker = {"CPU": recipe.threads - DRIVER_SHARE} | ({"GPU": 1.0} if gpus else {})
    return SweepPlan(
        file, name, directory, recipe, data, concurrent, 0.01, 0.0, worker if capacity else None
    )


def _place(
    file: SweepConfig, most_at_once: int, capacity: Capacity | None
) -> tuple[Recipe, float, int]:
    """(resolved baseline, GPUs of one trial, trials at once) on the cluster of that capacity, or on
    this machine.
    """
    wanted: dict[str, Any] = {
        "gpus_per_trial": file.gpus_per_trial,
        "most_at_once": most_at_once,
        "concurrent": file.concurrent,
    }
    if capacity:
        placed = place_on_cluster(file.baseline, capacity, **wanted)
    else:
        placed = place_here(file.baseline, num_trials=file.trials, **wanted)
    return placed.recipe, placed.gpus, placed.concurrent
