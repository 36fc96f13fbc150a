"""A sweep: Optuna proposes, Ray Tune runs, ASHA stops early, MLflow records; the documented default
is trial 0.

A sweep has two phases: the search, and the confirmation of what it found (tune/sweep/confirm.py).
Both run here, each from its own Optuna study, and a phase that was cut off is simply run again:
what its study says has ended is not touched.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from rbnn.data import open_loaders
from rbnn.data.loading import DataInfo
from rbnn.errors import RecipeError
from rbnn.hardware import device_of, gpu_ids
from rbnn.recipe import Recipe
from tune.cluster.ray import connected
from tune.cluster.resources import Capacity
from tune.run.remote import check_storage, folder_of, store_of
from tune.run.workers import DRIVER_SHARE
from tune.sweep.config import SweepFile, check_name
from tune.sweep.confirm import SUFFIX, chosen
from tune.sweep.folder import SweepFolder
from tune.sweep.placement import place_here, place_on_cluster
from tune.sweep.stop import Stop, stopper
from tune.sweep.study import VALUES, History
from tune.sweep.table import METRIC, Row
from tune.sweep.trial import run_trial, shared_data
from tune.uris import holds_password

# fewer trials than this for each that runs at once would leave the sampler nothing to learn from
TRIALS_PER_SLOT = 4
Trainable = Callable[..., None]


@dataclass(frozen=True)
class Plan:
    """A sweep as it will run on this machine: checked, nothing started.

    recipe: the baseline with workers and threads resolved; concurrent: trials at once; cpus, gpus:
    what one trial takes. worker_resources: of each of several workers, on a cluster; None as the
    trial's machine allows.
    """

    file: SweepFile
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
    file: SweepFile, *, name: str = "", results_dir: str = "", capacity: Capacity | None = None
) -> Plan:
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
    file: SweepFile,
    recipe: Recipe,
    name: str,
    directory: Path,
    at_once: int,
    capacity: Capacity | None,
) -> Plan:
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
    file: SweepFile,
    name: str,
    directory: Path,
    recipe: Recipe,
    concurrent: int,
    gpus: float,
    capacity: Capacity | None,
) -> Plan:
    recipe = recipe.replace(
        data_path=str(Path(recipe.data_path).absolute())
    )  # trials run in working directories of their own
    data = open_loaders(
        recipe.replace(train_workers=1), device_of(recipe.replace(gpus="none"))
    ).info
    if recipe.train_workers == 1:
        return Plan(file, name, directory, recipe, data, concurrent, float(recipe.threads), gpus)
    worker = {"CPU": recipe.threads - DRIVER_SHARE} | ({"GPU": 1.0} if gpus else {})
    return Plan(
        file, name, directory, recipe, data, concurrent, 0.01, 0.0, worker if capacity else None
    )


def _place(
    file: SweepFile, most_at_once: int, capacity: Capacity | None
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


@dataclass(frozen=True)
class Phase:
    """A part of a sweep: trials from one study. `num_trials`: how many are still to run, None
    without end.
    """

    history: History
    searcher: Any
    scheduler: Any
    num_trials: int | None


def search_phase(plan: Plan, storage: str, num_trials: int | None) -> Phase:
    """The search on the study that `storage` holds, or begins: up to `num_trials` in all, the
    baseline first.
    """
    from tune.sweep.searcher import OptunaSearcher

    history = History(storage, plan.name)
    searcher = OptunaSearcher(
        history, metric=METRIC, num_epochs=plan.recipe.epochs, proposals=proposals_of(plan)
    )
    left = None if num_trials is None else max(num_trials - len(history.finished), 0)
    return Phase(history, searcher, make_scheduler(plan, history), left)


def confirm_phase(plan: Plan, storage: str, rows: Mapping[int, Row], num_seeds: int) -> Phase:
    """The confirmation of what the search found: the runs still to be done; those that its study
    holds already are kept.
    """
    from tune.sweep.searcher import OptunaSearcher

    history = History(storage, plan.name + SUFFIX)
    known = {
        (trial.user_attrs["setting"], trial.user_attrs[VALUES]["seed"])
        for trial in history.trials()
    }
    for seed in range(plan.recipe.seed + 1, plan.recipe.seed + 1 + num_seeds):
        for number in chosen(rows, plan.file.confirm_top):
            if (number, seed) not in known:
                history.add_waiting(
                    {VALUES: {**rows[number].values, "seed": seed}, "setting": number, "test": True}
                )
    searcher = OptunaSearcher(history, metric=METRIC, num_epochs=plan.recipe.epochs)
    scheduler = make_scheduler(plan, history, stops=False)
    return Phase(history, searcher, scheduler, len(history.trials(TrialState.WAITING)))


def proposals_of(plan: Plan) -> Any:
    """What the search tries: the baseline, then what the sampler draws from the space."""
    from tune.sweep.proposals import Proposals

    file = plan.file
    searched = {field: getattr(plan.recipe, field) for field in file.space.entries}
    return Proposals(
        file.space,
        sampler=file.sampler,
        seed=file.seed,
        num_trials=file.trials,
        first=[searched, *file.first],
    )


def make_scheduler(plan: Plan, history: History, *, stops: bool = True) -> Any:
    """ASHA on epochs completed; scheduler none, or `stops` False, stops nobody."""
    from tune.sweep.scheduler import SuccessiveHalving

    settings = plan.file.scheduler
    return SuccessiveHalving(
        history,
        metric=METRIC,
        num_epochs=plan.recipe.epochs,
        grace_period=settings.grace_period if stops and settings.name == "asha" else None,
        reduction_factor=settings.reduction_factor,
        brackets=settings.brackets,
        seed=plan.file.seed,
    )


def run(
    plan: Plan, phase: Phase, callbacks: list[Any], stop: Stop, *, trainable: Trainable = run_trial
) -> None:
    """Run a phase to its end, or until `stop` is set: trials that run then wait in the study for
    the next time.

    callbacks: Ray Tune callbacks (recording, display), called in this process. trainable: what a
    trial does, as `run_trial`.
    """
    if phase.num_trials == 0:
        return
    with connected():
        import ray.tune

        here = {"base": plan.recipe.to_dict(), "sweep_directory": str(plan.directory.resolve())}
        task = partial(trainable, **here, **plan.elsewhere, data=shared_data(plan.recipe))
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                task, {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
            ),
            tune_config=ray.tune.TuneConfig(
                num_samples=-1 if phase.num_trials is None else phase.num_trials,
                search_alg=phase.searcher,
                scheduler=phase.scheduler,
                max_concurrent_trials=plan.concurrent,
                reuse_actors=plan.recipe.train_workers == 1,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=ray.tune.RunConfig(
                name=phase.history.name,
                storage_path=str(ray_directory(plan, phase)),
                callbacks=callbacks,
                stop=stopper(stop),
                failure_config=ray.tune.FailureConfig(max_failures=plan.file.max_failures),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            phase.searcher.interrupt()


def ray_directory(plan: Plan, phase: Phase) -> Path:
    """Where Ray Tune keeps its own state of a phase: errors of failed trials, nothing that a
    resumed sweep reads.

    That state is pickled with all that the sweep was told, the storage's password too.
    """
    directory = plan.directory.resolve() / "ray"
    directory.mkdir(exist_ok=True)
    if holds_password(plan.file.storage, plan.file.storage_path):
        directory.chmod(0o700)
    shutil.rmtree(directory / phase.history.name, ignore_errors=True)
    return directory
