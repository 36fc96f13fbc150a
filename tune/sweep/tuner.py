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

from optuna.trial import TrialState

from tune.cluster.ray import connected
from tune.sweep.confirm import SUFFIX, chosen
from tune.sweep.plan import SweepPlan
from tune.sweep.stop import StopSignal, stopper
from tune.sweep.study import VALUES, Study
from tune.sweep.table import METRIC, TrialRow
from tune.sweep.trial import run_trial, shared_data
from tune.uris import holds_password

Trainable = Callable[..., None]


@dataclass(frozen=True)
class Phase:
    """A part of a sweep: trials from one study. `num_trials`: how many are still to run, None
    without end.
    """

    history: Study
    searcher: Any
    scheduler: Any
    num_trials: int | None


def search_phase(plan: SweepPlan, storage: str, num_trials: int | None) -> Phase:
    """The search on the study that `storage` holds, or begins: up to `num_trials` in all, the
    baseline first.
    """
    from tune.sweep.searcher import OptunaSearcher

    history = Study(storage, plan.name)
    searcher = OptunaSearcher(
        history, metric=METRIC, num_epochs=plan.recipe.epochs, proposals=proposals_of(plan)
    )
    left = None if num_trials is None else max(num_trials - len(history.finished), 0)
    return Phase(history, searcher, make_scheduler(plan, history), left)


def confirm_phase(
    plan: SweepPlan, storage: str, rows: Mapping[int, TrialRow], num_seeds: int
) -> Phase:
    """The confirmation of what the search found: the runs still to be done; those that its study
    holds already are kept.
    """
    from tune.sweep.searcher import OptunaSearcher

    history = Study(storage, plan.name + SUFFIX)
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


def proposals_of(plan: SweepPlan) -> Any:
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


def make_scheduler(plan: SweepPlan, history: Study, *, stops: bool = True) -> Any:
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
    plan: SweepPlan,
    phase: Phase,
    callbacks: list[Any],
    stop: StopSignal,
    *,
    trainable: Trainable = run_trial,
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


def ray_directory(plan: SweepPlan, phase: Phase) -> Path:
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
