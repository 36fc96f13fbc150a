"""A sweep: Optuna proposes, Ray Tune runs, ASHA stops early, MLflow records; the documented default is trial 0.

Everything of a sweep lives in results_dir/NAME: sweep.yaml as resolved, optuna.db, trials/NUMBER/{last,best}.ckpt, ray/.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import yaml

from rbnn.data import open_loaders
from rbnn.data.loading import DataInfo
from rbnn.errors import RecipeError
from rbnn.machine import device_of, gpu_ids, num_cores, resolve
from rbnn.recipe import Recipe
from tune.cluster import connected
from tune.sweepfile import SweepFile
from tune.trial import run_trial

METRIC = "val/top1"
TRIALS_PER_SLOT = 4  # fewer trials than this for each that runs at once would leave the sampler nothing to learn from


@dataclass(frozen=True)
class Plan:
    """A sweep as it will run on this machine: checked, nothing started.

    recipe: the baseline with workers and threads resolved; concurrent: trials at once; cpus, gpus: what one trial takes.
    """

    file: SweepFile
    name: str
    directory: Path
    recipe: Recipe
    data: DataInfo
    concurrent: int
    cpus: float
    gpus: float


def plan(file: SweepFile, *, name: str = "", results_dir: str = "") -> Plan:
    """Resolve a sweep file on this machine and open its data; RecipeError or DataError, one line, where it cannot run."""
    baseline = file.baseline
    num_gpus = len(gpu_ids(baseline.replace(train_workers=_all_gpus(baseline))))
    gpus = file.gpus_per_trial or (float(file.workers_per_trial) if num_gpus else 0.0)
    if gpus > num_gpus:
        raise RecipeError(
            f"gpus_per_trial is {gpus:g}, but this machine has {num_gpus} GPUs; lower it or run where there are more"
        )
    slots = int(num_gpus / gpus) if gpus else num_cores() // file.workers_per_trial
    concurrent = file.concurrent or max(1, min(slots, file.trials // TRIALS_PER_SLOT))
    if concurrent > max(slots, 1) or slots == 0:
        raise RecipeError(
            f"{concurrent} trial(s) at once with {file.workers_per_trial} worker(s) each do not fit this machine "
            f"({num_cores()} cores, {num_gpus} GPUs); at most {slots} do: lower --concurrent or workers_per_trial"
        )
    recipe = resolve(baseline, share=concurrent)
    data = open_loaders(recipe.replace(train_workers=1), device_of(recipe.replace(gpus="none"))).info
    name = name or f"{file.name}-{datetime.now():%Y%m%d-%H%M%S}"
    directory = Path(results_dir or recipe.results_dir) / name
    if directory.exists():
        raise RecipeError(f"sweep '{name}' exists in {directory}; choose another --name")
    cpus = float(recipe.threads) if recipe.train_workers == 1 else 0.01
    return Plan(file, name, directory, recipe, data, concurrent, cpus, gpus if recipe.train_workers == 1 else 0.0)


def _all_gpus(recipe: Recipe) -> int:
    import torch

    return min(max(torch.cuda.device_count(), 1), recipe.batch_size)


def storage_url(directory: Path) -> str:
    """The Optuna storage of a sweep's folder."""
    return f"sqlite:///{directory.resolve()}/optuna.db"


def make_searcher(plan: Plan) -> Any:
    """Optuna behind Ray Tune, on the sweep's own storage, with the baseline first."""
    from tune.searcher import OptunaSearcher

    file = plan.file
    searched = {field: getattr(plan.recipe, field) for field in file.space.entries}
    return OptunaSearcher(
        file.space,
        metric=METRIC,
        storage=storage_url(plan.directory),
        study_name=plan.name,
        sampler=file.sampler,
        seed=file.seed,
        num_epochs=plan.recipe.epochs,
        num_trials=file.trials,
        first=[searched],
    )


def make_scheduler(plan: Plan) -> Any:
    """ASHA on epochs completed, or first-in first-out."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    settings = plan.file.scheduler
    if settings.name == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=plan.recipe.epochs + 1,  # a trial that reaches its last epoch ends by itself, and is not "stopped"
        grace_period=settings.grace_period,
        reduction_factor=settings.reduction_factor,
        brackets=settings.brackets,
    )


def run(plan: Plan, callbacks: list[Any], stop: Event) -> None:
    """Run the sweep to its end, or until `stop` is set: running trials then end where they are.

    callbacks: Ray Tune callbacks (recording, display), called in this process.
    """
    plan.directory.mkdir(parents=True)
    (plan.directory / "sweep.yaml").write_text(yaml.safe_dump(plan.file.to_dict(), sort_keys=False))
    with connected():
        import ray.tune

        trainable = partial(run_trial, base=plan.recipe.to_dict(), sweep_directory=str(plan.directory.resolve()))
        file, searcher = plan.file, make_searcher(plan)
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trainable, {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})),
            tune_config=ray.tune.TuneConfig(
                num_samples=file.trials,
                search_alg=searcher,
                scheduler=make_scheduler(plan),
                max_concurrent_trials=plan.concurrent,
                reuse_actors=plan.recipe.train_workers == 1,
                time_budget_s=file.time_budget_min * 60 if file.time_budget_min else None,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=ray.tune.RunConfig(
                name="ray",
                storage_path=str(plan.directory.resolve()),
                callbacks=callbacks,
                stop=stopper(stop),
                failure_config=ray.tune.FailureConfig(max_failures=file.max_failures),
                verbose=0,
            ),
        )
        try:
            with set_by_signals(stop):
                tuner.fit()
        finally:
            searcher.reconcile()


def stopper(stop: Event) -> Any:
    """Ray Tune's stopper for a whole sweep, obeying an event of this process."""
    from ray.tune import Stopper

    class StopWhenSet(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stop.is_set()

        def __reduce__(self) -> tuple[Any, ...]:
            return _never_stops, ()  # Ray pickles it into its state files; the event belongs to this process alone

    return StopWhenSet()


def _never_stops() -> Any:
    return stopper(Event())


@contextmanager
def set_by_signals(stop: Event) -> Iterator[None]:
    """Within it, SIGINT (Ctrl-C) and SIGTERM set `stop`; a second one raises KeyboardInterrupt."""

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
