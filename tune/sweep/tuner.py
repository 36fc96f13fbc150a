"""A sweep's two phases as Ray Tune runs them: the search, and the confirmation of what it found.

Optuna proposes, Ray Tune runs, ASHA stops early. Each phase runs from its own Optuna study, and one
that was cut off is simply run again: what its study says has ended is not touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.tune
from optuna.trial import TrialState

from tune.cluster.ray import connected
from tune.sweep.confirm import chosen
from tune.sweep.plan import SweepPlan
from tune.sweep.proposals import Proposals
from tune.sweep.scheduler import SuccessiveHalving
from tune.sweep.searcher import OptunaSearcher
from tune.sweep.stop import StopSignal, stopper
from tune.sweep.study import SUFFIX, VALUES, Study
from tune.sweep.table import TrialRow
from tune.sweep.trial import run_trial, shared_data
from tune.uris import holds_password

Trainable = Callable[..., None]
RAY = "ray"  # Ray Tune's own folder in the sweep's


@dataclass(frozen=True)
class Phase:
    """Trials from one study, so many still to run; None without end."""

    study: Study
    searcher: OptunaSearcher
    scheduler: SuccessiveHalving
    num_trials: int | None


def search_phase(plan: SweepPlan, storage: str | None, num_trials: int | None) -> Phase:
    """The search on a storage's study (None: in memory), up to `num_trials` in all."""
    study = Study(storage, plan.name)
    searcher = OptunaSearcher(study, plan.recipe.epochs, proposals_of(plan))
    left = None if num_trials is None else max(num_trials - len(study.finished), 0)
    return Phase(study, searcher, make_scheduler(plan, study), left)


def confirm_phase(
    plan: SweepPlan, storage: str, rows: Mapping[int, TrialRow], num_seeds: int
) -> Phase:
    """The confirmation of what the search found: runs that its study holds already are kept."""
    study = Study(storage, plan.name + SUFFIX)
    known = [(t.user_attrs["setting"], t.user_attrs[VALUES]["seed"]) for t in study.trials()]
    for seed in range(plan.recipe.seed + 1, plan.recipe.seed + 1 + num_seeds):
        for number in chosen(rows, plan.config.confirm_top):
            values = {**rows[number].values, "seed": seed}
            if (number, seed) not in known:
                given = {VALUES: values, "setting": number, "test": True}
                study.add(TrialState.WAITING, {}, {}, given)
    scheduler = make_scheduler(plan, study, stops=False)
    num_waiting = len(study.trials(TrialState.WAITING))
    return Phase(study, OptunaSearcher(study, plan.recipe.epochs), scheduler, num_waiting)


def proposals_of(plan: SweepPlan) -> Proposals:
    """What the search tries: the baseline, then what the sampler draws from the space."""
    config = plan.config
    baseline = {name: getattr(plan.recipe, name) for name in config.space.entries}
    return Proposals(
        config.space,
        sampler=config.sampler,
        seed=config.seed,
        num_trials=config.trials,
        first=[baseline, *config.first],
        lengths=config.scheduler.lengths(plan.recipe.epochs),
        short=config.scheduler.name == "short",
        factor=config.scheduler.reduction_factor,
    )


def make_scheduler(plan: SweepPlan, study: Study, *, stops: bool = True) -> SuccessiveHalving:
    """ASHA on epochs completed; scheduler none, or `stops` False, stops nobody."""
    settings = plan.config.scheduler
    return SuccessiveHalving(
        study,
        plan.recipe.epochs,
        settings.grace_period if stops and settings.name == "asha" else None,
        reduction_factor=settings.reduction_factor,
        brackets=settings.brackets,
        seed=plan.config.seed,
    )


def run(
    plan: SweepPlan,
    phase: Phase,
    callbacks: list[Any],
    stop: StopSignal,
    *,
    trainable: Trainable = run_trial,
) -> None:
    """Run a phase until its end or `stop`: trials that run then wait for the next time."""
    if phase.num_trials == 0:
        return
    with connected():
        task = partial(
            trainable,
            base=plan.recipe.to_dict(),
            sweep_directory=str(plan.directory.resolve()),
            data=shared_data(plan.recipe),
            store=plan.store,
            worker_resources=plan.worker_resources,
        )
        resources = {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(task, resources),
            tune_config=ray.tune.TuneConfig(
                num_samples=-1 if phase.num_trials is None else phase.num_trials,
                search_alg=phase.searcher,
                scheduler=phase.scheduler,
                max_concurrent_trials=plan.concurrent,
                reuse_actors=plan.recipe.train_workers == 1,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=ray.tune.RunConfig(
                name=phase.study.name,
                storage_path=str(ray_directory(plan, phase)),
                callbacks=callbacks,
                stop=stopper(stop, phase.study.has_ended),
                failure_config=ray.tune.FailureConfig(max_failures=plan.config.max_failures),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            phase.searcher.interrupt()


def ray_directory(plan: SweepPlan, phase: Phase) -> Path:
    """Where Ray Tune keeps its own state of a phase: errors of failed trials, nothing that a
    resumed sweep reads. It is pickled with all that the sweep was told, the storage's password too.
    """
    directory = plan.directory.resolve() / RAY
    directory.mkdir(exist_ok=True)
    if holds_password(plan.config.storage, plan.config.storage_path):
        directory.chmod(0o700)
    shutil.rmtree(directory / phase.study.name, ignore_errors=True)
    return directory
