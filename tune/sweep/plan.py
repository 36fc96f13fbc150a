"""A sweep as it will run here: recipe resolved, data opened, trials placed; and its folder."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rbnn.data import describe_data
from rbnn.data.loading import DataInfo
from rbnn.errors import RecipeError, RequestError
from rbnn.files import write_atomically
from rbnn.hardware import gpu_ids
from rbnn.recipe import Recipe
from tune.cluster.resources import Capacity
from tune.run.folder import new_id
from tune.run.remote import check_storage, folder_of, store_of
from tune.run.workers import DRIVER_SHARE
from tune.sweep.config import SweepConfig, check_name
from tune.sweep.folder import SWEEP_FILE, SweepFolder, SweepRecord, digest_of, private_mode
from tune.sweep.placement import place
from tune.uris import with_absolute_path

# fewer trials than this for each that runs at once would leave the sampler nothing to learn from
TRIALS_PER_SLOT = 4


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as it will run: checked, nothing started. recipe: the baseline with workers and
    threads resolved; concurrent: trials at once; cpus, gpus: what one trial takes.
    worker_resources: of each of several workers, on a cluster; None as the machine allows.
    """

    config: SweepConfig
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
        if self.worker_resources:
            return workers * self.worker_resources.get("GPU", 0.0)
        return float(len(gpu_ids(self.recipe)))

    @property
    def mps(self) -> bool:
        """Whether to start CUDA's MPS: trials side by side use one GPU."""
        return self.config.mps and 0 < self.gpus < 1 and self.concurrent > 1

    @property
    def store(self) -> str:
        """The address of its trials' checkpoints in an object store; "" where there is none."""
        return store_of(self.config.storage_path, self.name)


def plan(
    config: SweepConfig, *, name: str = "", results_dir: str = "", capacity: Capacity | None = None
) -> SweepPlan:
    """Resolve a sweep file here, or on the cluster of that capacity, and describe its data;
    RecipeError or DataError, one line, where it cannot run.
    """
    check_name(name)
    most = max(1, config.trials // TRIALS_PER_SLOT)
    name = name or f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    recipe, placed = _place(config, most, capacity)
    directory = folder_of(config.storage_path, results_dir, recipe.results_dir) / name
    if directory.exists():
        begun = SweepFolder(directory)
        what = "sweep" if begun.exists else "folder"
        go_on = f", or go on with it: rbnn resume {begun.handle}" if begun.exists else ""
        raise RecipeError(f"{what} '{name}' exists in {directory}; choose another --name{go_on}")
    return SweepPlan(config, name, directory, recipe, describe_data(recipe), **placed)


def plan_again(
    config: SweepConfig,
    recipe: Recipe,
    name: str,
    directory: Path,
    at_once: int,
    capacity: Capacity | None,
) -> SweepPlan:
    """The plan of a sweep that began earlier, with its recipe; at_once: trials as planned then."""
    there = dataclasses.replace(config, baseline=recipe, concurrent=0)
    _, placed = _place(there, at_once, capacity)
    recipe = _at_home(recipe)
    return SweepPlan(config, name, directory, recipe, describe_data(recipe), **placed)


def recorded_plan(folder: SweepFolder) -> SweepPlan:
    """The plan of a recorded sweep as it was; nothing is checked or opened."""
    known, config = folder.record, folder.config
    recipe, data, given = Recipe(**known.recipe), DataInfo(**known.data), (known.cpus, known.gpus)
    return SweepPlan(config, known.name, folder.directory, recipe, data, known.concurrent, *given)


def _at_home(recipe: Recipe) -> Recipe:
    """The recipe for trials, which run in working directories of their own."""
    return recipe.replace(data_path=str(Path(recipe.data_path).absolute()))


def _place(
    config: SweepConfig, most_at_once: int, capacity: Capacity | None
) -> tuple[Recipe, dict[str, Any]]:
    """The resolved baseline, and what a plan says of its trials' places."""
    check_storage(config.storage_path, len(capacity.nodes) if capacity else 1)
    placed = place(
        config.baseline,
        capacity,
        num_trials=config.trials,
        gpus_per_trial=config.gpus_per_trial,
        most_at_once=most_at_once,
        concurrent=config.concurrent,
        searched=_largest(config),
    )
    recipe = _at_home(placed.recipe)
    found: dict[str, Any] = {"concurrent": placed.concurrent, "gpus": placed.gpus}
    found["cpus"] = float(recipe.threads)
    if recipe.train_workers > 1:  # its driver computes nothing
        worker = {"CPU": recipe.threads - DRIVER_SHARE} | ({"GPU": 1.0} if placed.gpus else {})
        found |= {"cpus": 0.01, "gpus": 0.0, "worker_resources": worker if capacity else None}
    return recipe, found


def _largest(config: SweepConfig) -> list[Recipe]:
    """The baseline with the largest batch that is searched, for each network that is."""
    baseline, entries = config.baseline, config.space.entries
    sizes, models = entries.get("batch_size"), entries.get("model")
    largest = baseline.replace(batch_size=int(sizes.ends[1])) if sizes else baseline
    return [largest.replace(model=model) for _, model in models.choices] if models else [largest]


def search_params(planned: SweepPlan) -> dict[str, Any]:
    """How the sweep searches, as params beside those of its recipe."""
    config = planned.config
    found: dict[str, Any] = {"sweep/concurrent": planned.concurrent}
    for name in ("sampler", "seed", "trials", "time_budget_min", "confirm_top", "confirm_seeds"):
        if (value := getattr(config, name)) is not None:
            found[f"sweep/{name}"] = value
    settings = config.scheduler.to_dict()
    words = [settings.pop("name"), *(f"{key}={value:g}" for key, value in settings.items())]
    found["sweep/scheduler"] = " ".join(words)
    for name, kind, text in config.space.describe():
        found[f"space/{name}"] = f"{kind} {text}"
    return found


def create_folder(planned: SweepPlan, store: str) -> SweepFolder:
    """The new folder of a sweep, with all that going on with it needs."""
    config, recipe, where = planned.config, planned.recipe, planned.directory.parent
    try:
        planned.directory.mkdir(parents=True)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}; choose another --results_dir"
        raise RequestError(f"results_dir '{where}' {reason}") from None
    folder, sweep_id = SweepFolder(planned.directory), new_id()
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    mode = private_mode(config.storage, config.storage_path)
    write_atomically(planned.directory / SWEEP_FILE, text, mode=mode)
    folder.describe(recipe)
    sweeps = {"rbnn.sweep": planned.name, "rbnn.sweep_id": sweep_id, "rbnn.recipe": config.name}
    folder.write(
        SweepRecord(
            file=digest_of(planned.directory / SWEEP_FILE),
            id=sweep_id,
            kind="sweep",
            name=planned.name,
            parent=sweep_id,
            tags=sweeps,
            params=search_params(planned),
            description=config.description,
            data=dataclasses.asdict(planned.data),
            began=time.time(),
            store=store,
            storage=with_absolute_path(config.storage),
            recipe=recipe.to_dict(),
            concurrent=planned.concurrent,
            cpus=float(recipe.threads * recipe.train_workers),
            gpus=planned.gpus_of_trial,
            trials=config.trials,
            budget_s=config.time_budget_min * 60 if config.time_budget_min else None,
            confirm_seeds=config.confirm_seeds,
        )
    )
    return folder


def about(planned: SweepPlan) -> dict[str, str]:
    """A sweep in words, as attributes of its study."""
    recipe = planned.recipe
    network = f"{recipe.model} on {recipe.dataset}, {recipe.epochs} epochs"
    found = {"question": planned.config.description, "network": network}
    found["value"] = "val/top1 of the last epoch, percent; intermediate values are by epoch"
    found["trial 0"] = "the documented default"
    return found | {"go on with it": f"rbnn resume {planned.name}"}
