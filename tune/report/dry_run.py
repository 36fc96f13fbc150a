"""What `rbnn sweep FILE --dry-run` prints."""

from __future__ import annotations

from typing import Any

from tune.report.outcome import opening
from tune.sweep.forecast import Forecast, first_points, forecast, hours
from tune.sweep.plan import SweepPlan
from tune.sweep.table import shown


def dry_run(plan: SweepPlan, recorded: tuple[float, str] | None) -> list[str]:
    """The lines that say what a planned sweep would do; recorded: as `forecast` takes it."""
    found = forecast(plan, recorded)
    config, recipe = plan.config, plan.recipe
    lines = [opening(plan), "", "space"]
    lines += [f"  {name}: {kind}, {text}" for name, kind, text in config.space.describe()]
    lines += ["first trials"] + [
        f"  {number}: {_values(values)}" for number, values in enumerate(first_points(plan))
    ]
    each = f"{recipe.train_workers * recipe.threads} core(s), {plan.gpus_of_trial:g} GPU(s)"
    lines += [f"at once: {plan.concurrent} trials of {each}", *_rungs(plan, found)]
    total = found.expected + found.confirming
    epochs = (
        f"{found.most + found.confirming} at most, about {total:.0f} expected "
        f"({found.expected:.0f} to search"
    )
    lines += [f"epochs: {epochs}, {found.confirming} to confirm)"]
    lines += [f"an epoch: {found.epoch_s:.2f} s, {found.source}"]
    limit = config.time_budget_min
    budget = f"; the search stops after {limit:g} minutes" if limit else ""
    most, likely = (
        hours(found.most + found.confirming, found, plan.concurrent),
        hours(total, found, plan.concurrent),
    )
    lines += [
        f"time: about {likely}, at most {most}, if trials at once do not slow one another{budget}"
    ]
    size = f"{found.checkpoint / 1e6:.1f} MB a checkpoint, up to {found.disk / 1e9:.2f} GB in all"
    return [*lines, f"disk: {size} (last and best of each run, in its folder and in MLflow)"]


def _rungs(plan: SweepPlan, found: Forecast) -> list[str]:
    if plan.config.scheduler.name == "none":
        return ["rungs: none, every trial runs to its end"]
    share = f"one in {plan.config.scheduler.reduction_factor:g} goes on"
    texts = [", ".join(f"epoch {epoch}" for epoch in one) or "none" for one in found.rungs]
    if len(texts) == 1:
        return [
            f"rungs: {texts[0]}; {share}" if found.rungs[0] else "rungs: none below the last epoch"
        ]
    return [f"rungs of bracket {number}: {text}; {share}" for number, text in enumerate(texts)]


def _values(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {shown(value)}" for name, value in values.items())
