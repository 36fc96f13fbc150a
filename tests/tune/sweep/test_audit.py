"""The audit derives every decision of a sweep that was killed and resumed at random, and names one
that its history does not give.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from rbnn.data.loading import DataInfo
from tune.sweep.audit import Audit, audit
from tune.sweep.config import parse_sweep
from tune.sweep.plan import SweepPlan
from tune.sweep.searcher import OptunaSearcher
from tune.sweep.simulate import RunningTrial, advance
from tune.sweep.study import PROPOSED, VALUES, Study
from tune.sweep.trial import TrialSpec
from tune.sweep.tuner import Phase, make_scheduler, proposals_of

SWEEP: dict[str, Any] = {
    "name": "look",
    "base": {"dataset": "digits", "epochs": 9, "Tmin": 0.3, "Tmax": 3},
    "space": {"lr": {"log": [0.01, 1]}, "Tmax": {"log": [0.1, 9]}, "warm_up": "boolean"},
    "first": [{"lr": 0.3, "Tmax": 2}],
}
ASHA = {"name": "asha", "grace_period": 6, "reduction_factor": 2}
# In a sweep of more than 40 trials the baseline waits while others are whole already.
WAYS = [("gp", "short", 16), ("gp", "short", 44), ("gp", ASHA, 16), ("tpe", ASHA, 16)]


def score(values: dict[str, Any], epoch: int, num_epochs: int, seed: int) -> float:
    noise = math.sin(1e4 * values["lr"] * (epoch + 1) + num_epochs)
    return 80 - 9 * abs(math.log(values["lr"] / 0.2)) - 20 / (epoch + 1) + noise


def plan_of(sampler: str, scheduler: Any, num_trials: int = 16) -> SweepPlan:
    how = {"sampler": sampler, "scheduler": scheduler, "trials": num_trials}
    file = parse_sweep({**SWEEP, **how}, Path())
    return SweepPlan(file, "look", Path(), file.baseline, DataInfo("digits", ""), 3, 1, 0)


def play(plan: SweepPlan, phase: Phase, draw: random.Random, num_events: int) -> None:
    """Some events of a sweep of three trials at once; then it is killed, perhaps between a report
    and what follows from it.
    """
    running: list[RunningTrial] = []
    for event in range(num_events):
        while len(running) < 3 and len(phase.study.finished) + len(running) < plan.config.trials:
            config = phase.searcher.suggest(f"{id(phase)}-{event}-{len(running)}")
            if not isinstance(config, dict):
                break
            spec = TrialSpec.of(config)
            length = int(spec.values.get("epochs", plan.recipe.epochs))
            done = max(spec.epochs_done - 1, 0)
            trial = RunningTrial(f"{id(phase)}-{event}-{len(running)}", config, spec.values, length)
            running.append(trial)
            trial.result = {"epoch": done}
        if not running:
            return
        trial = draw.choice(running)
        epoch = trial.epochs + 1
        if event == num_events - 1 and epoch < trial.num_epochs and draw.random() < 0.5:
            top1 = score(trial.values, epoch - 1, trial.num_epochs, 0)
            known = {"epoch": epoch, "val/top1": top1}
            answer = phase.scheduler.on_trial_result(None, trial, known)
            if answer == TrialScheduler.CONTINUE and draw.random() < 0.5:
                phase.searcher.on_trial_result(trial.trial_id, known)
        elif advance(trial, phase.searcher, phase.scheduler, score, 0):
            running.remove(trial)


def audited(plan: SweepPlan, study: Study) -> Audit:
    return audit(proposals_of(plan), make_scheduler(plan, study))


@pytest.mark.parametrize(("sampler", "scheduler", "num_trials"), WAYS)
def test_every_decision_of_a_sweep_killed_at_random_is_derived(
    sampler: str, scheduler: Any, num_trials: int
) -> None:
    plan, draw = plan_of(sampler, scheduler, num_trials), random.Random(5)
    study = Study(None, "look")
    while len(study.finished) < num_trials:
        study.interrupt_running()
        searcher = OptunaSearcher(study, plan.recipe.epochs, proposals_of(plan))
        phase = Phase(study, searcher, make_scheduler(plan, study), None)
        play(plan, phase, draw, draw.randint(1, 12))
    found = audited(plan, study)
    assert found.wrong == [] and found.proposals + found.given == num_trials
    assert found.given == 2 and (found.judgements > 5) == (scheduler == ASHA)


def test_what_its_history_does_not_give_is_named() -> None:
    plan, study = plan_of("random", "none"), Study(None, "look")
    proposals = proposals_of(plan)
    proposals.enqueue(study)
    for _ in range(4):
        trial = proposals.next(study)
        assert trial is not None
        study.note(trial.number, 1, 50.0)
    study.tag(2, VALUES, {**study.trials()[2].user_attrs[VALUES], "lr": 0.5})
    study.tag(0, VALUES, {**study.trials()[0].user_attrs[VALUES], "lr": 0.5})
    study.tag(3, PROPOSED, {"of": 2, "open": []})
    study.end(1, TrialState.PRUNED)
    subjects = ["trial 0 was given", "trial 1 was stopped after epoch 1, where", "trial 2 was prop"]
    wrong = audited(plan, study).wrong
    assert [text[: len(start)] for text, start in zip(wrong, subjects, strict=False)] == subjects
    assert len(wrong) == 4 and wrong[3].startswith("trial 3 was proposed {'lr'")
