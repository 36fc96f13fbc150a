"""`rbnn audit SWEEP`: every proposal and every stop of a search, derived again from its history.

With each decision the study holds how far its trials were then (`Study.standing`), so that a sweep
that was killed and resumed can be followed as well as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune.sweep.folder import SweepFolder
from tune.sweep.lineage import study_of
from tune.sweep.plan import recorded_plan
from tune.sweep.proposals import Proposals
from tune.sweep.scheduler import SuccessiveHalving
from tune.sweep.study import JUDGED, ORIGIN, PROPOSED, VALUES, as_of, last_epoch, schedule
from tune.sweep.tuner import make_scheduler, proposals_of


@dataclass
class Audit:
    """Decisions that were derived again, and in words those that could not be."""

    proposals: int = 0
    given: int = 0
    judgements: int = 0
    wrong: list[str] = field(default_factory=list)


def audit_of(folder: SweepFolder) -> Audit:
    """The audit of a sweep's search."""
    plan = recorded_plan(folder)
    return audit(proposals_of(plan), make_scheduler(plan, study_of(folder)))


def audit(proposals: Proposals, scheduler: SuccessiveHalving) -> Audit:
    """The audit of the study that both decide by."""
    found, trials = Audit(), scheduler.history.trials()
    for trial in trials:
        if VALUES not in trial.user_attrs:
            continue
        if ORIGIN in trial.user_attrs or PROPOSED not in trial.user_attrs:
            found.given += 1
            found.wrong += _given(trial, trials, proposals)
        else:
            found.proposals += 1
            derived = proposals.derive(as_of(trials, trial.user_attrs[PROPOSED]))
            if derived != (trial.params, trial.user_attrs[VALUES]):
                text = f"proposed {trial.user_attrs[VALUES]}; its history gives {derived[1]}"
                found.wrong.append(f"trial {trial.number} was {text}")
        judged = list(_judgements(trial, trials, scheduler))
        found.judgements += len(judged)
        found.wrong += [text for text in judged if text]
    return found


def _given(trial: FrozenTrial, trials: list[FrozenTrial], proposals: Proposals) -> Iterator[str]:
    """What is wrong with a trial that was given, or goes on with another."""
    values, subject = _plain(trial), f"trial {trial.number}"
    if (origin := trial.user_attrs.get(ORIGIN)) is not None:
        if _plain(trials[origin]) != values:
            yield f"{subject} goes on with trial {origin}, and tries other values: {values}"
        return
    fixed = trial.system_attrs.get("fixed_params")
    if fixed is None:
        yield f"{subject} was proposed, and how the study stood then is not recorded"
    elif (
        proposals.space.values(trial.params) != values or not fixed.items() <= trial.params.items()
    ):
        yield f"{subject} was given as {fixed} and tries {values}"


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial but for the length of its schedule."""
    return {name: value for name, value in trial.user_attrs[VALUES].items() if name != "epochs"}


def _judgements(
    trial: FrozenTrial, trials: list[FrozenTrial], scheduler: SuccessiveHalving
) -> Iterator[str]:
    """For each time that a trial was, or should have been, judged: what is wrong, or ""."""
    scores, end, subject = trial.intermediate_values, last_epoch(trial), f"trial {trial.number}"
    stopped = trial.state == TrialState.PRUNED and end < schedule(trial, scheduler.num_epochs)
    judged = trial.user_attrs.get(JUDGED, {})
    for epoch, standing in judged.items():
        if (at := int(epoch)) in scores:
            then = as_of(trials, standing)
            stops = scheduler.stops(then, trial.number, at, scores[at])
            went_on = end > at or not stopped
            differs = stops == went_on and (trial.state.is_finished() or end > at)
            words = "stopped" if stops else "not stopped"
            yield f"{subject} would have been {words} after epoch {at}" if differs else ""
    if stopped and str(end) not in judged:
        yield f"{subject} was stopped after epoch {end}, where nothing is judged"
