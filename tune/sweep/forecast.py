"""`rbnn sweep FILE --dry_run`: what a sweep will cost and try, before anything is spent.

Expected epochs with ASHA: every trial runs to the first rung r1, one in f goes on from each, so r1
+ (r2 - r1) / f + (r3 - r2) / f^2 ... a trial. The epoch time is a recorded one of the same network,
data and threads, or a few steps measured here and now.
"""

from __future__ import annotations

import itertools
import operator
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from optuna.trial import TrialState

from rbnn.binarize import set_surrogate
from rbnn.data import open_loaders
from rbnn.engine import evaluate
from rbnn.hardware import device_of
from rbnn.models import build
from rbnn.recipe import Recipe
from rbnn.schedules import surrogate_tk
from rbnn.state import start
from rbnn.step import take_step
from tune.sweep.confirm import num_confirming
from tune.sweep.lineage import Lessons, teach
from tune.sweep.plan import SweepPlan
from tune.sweep.proposals import LAST_WHOLE
from tune.sweep.scheduler import rungs
from tune.sweep.study import VALUES, Study
from tune.sweep.tuner import proposals_of

NUM_SHOWN = 5
NUM_STEPS, MEASURE_S = 3, 20.0
KEPT_FILES = 2  # last.ckpt and best.ckpt
NOTHING: Lessons = {}  # to learn from


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take. num_short: trials that gp begins with, of the shortest schedule;
    num_learned: those of earlier sweeps that it learns from.
    most, expected: epochs of the search; confirming: epochs after it.
    epoch_s: seconds of an epoch of one trial, and how that is known. checkpoint: bytes of one file.
    """

    rungs: list[list[int]]
    num_short: int
    num_learned: int
    most: int
    expected: float
    confirming: int
    epoch_s: float
    source: str
    checkpoint: int
    num_runs: int

    @property
    def disk(self) -> int:
        """Bytes of all checkpoints: in the sweep's folder, and once more as MLflow artifacts."""
        return 2 * KEPT_FILES * self.checkpoint * self.num_runs


def forecast(
    plan: SweepPlan, recorded: tuple[float, str] | None, known: Lessons = NOTHING
) -> Forecast:
    """The forecast of a sweep. recorded: seconds of an epoch of such a run, and of which. known:
    what it learns from.
    """
    config, epochs = plan.config, plan.recipe.epochs
    asha, factor = config.scheduler, config.scheduler.reduction_factor
    judged: list[list[int]] = [[]]
    num_short, num_learned = 0, sum(map(len, known.values()))
    if asha.name == "asha":
        brackets = range(asha.brackets)
        judged = [rungs(asha.grace_period, factor, epochs, bracket) for bracket in brackets]
    each = statistics.fmean(expected_epochs(one, factor, epochs) for one in judged)
    expected = config.trials * each
    if asha.name == "short":
        proposals = proposals_of(plan)
        judged = [proposals.lengths]
        num_short = max(0, proposals.num_short - num_learned)
        shares = [factor**-level for level in range(len(judged[0]))]
        each = sum(map(operator.mul, judged[0], shares)) / sum(shares)
        whole = min(config.trials, 1 + max(1, config.trials // LAST_WHOLE))  # baseline, and last
        if config.sampler == "gp":
            whole, each = config.trials - num_short, judged[0][0]
        expected = (config.trials - whole) * each + whole * epochs
    num_after = num_confirming(config.confirm_top, config.confirm_seeds, config.trials)
    epoch_s, source = recorded or measured_epoch_s(plan.recipe)
    return Forecast(
        rungs=judged,
        num_short=num_short,
        num_learned=num_learned,
        most=config.trials * epochs,
        expected=expected,
        confirming=num_after * epochs,
        epoch_s=epoch_s,
        source=source,
        checkpoint=checkpoint_bytes(plan.recipe),
        num_runs=config.trials + num_after,
    )


def expected_epochs(judged: list[int], reduction_factor: float, num_epochs: int) -> float:
    """Epochs of a trial on average, where one in `reduction_factor` goes on at each rung."""
    share, expected = 1.0, 0.0
    for begin, end in itertools.pairwise([0, *judged, num_epochs]):
        expected += (end - begin) * share
        share /= reduction_factor
    return expected


def measured_epoch_s(recipe: Recipe) -> tuple[float, str]:
    """Seconds of an epoch from a few steps and evaluation batches here, after one of each."""
    alone = recipe.replace(train_workers=1, compile="off")
    device = device_of(alone)
    loaders = open_loaders(alone, device)
    run = start(alone, device)
    set_surrogate(run.model, *surrogate_tk(alone, 0))
    run.network.train()
    run.counts.begin(0)
    steps = _timed(map(partial(take_step, run), loaders.train.epoch(0)), device)
    evaluations = _timed((evaluate(run.model, [batch]) for batch in loaders.val), device)
    step_s, val_s = statistics.median(steps), statistics.median(evaluations)
    num_val = -(-loaders.info.sizes.get("validation", 0) // alone.batch_size_test)
    seconds = (loaders.train.num_batches * step_s + num_val * val_s) / recipe.train_workers
    counted = f"{len(steps)} steps of {step_s:.3g} s, {len(evaluations)} evaluation batches of"
    return seconds, f"measured now: {counted} {val_s:.3g} s"


def _timed(work: Iterable[object], device: torch.device) -> list[float]:
    """Seconds of each of the next few items of `work`, the first left out where there are more."""
    seconds: list[float] = []
    began = time.perf_counter()
    for _ in itertools.islice(work, NUM_STEPS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        if sum(seconds) > MEASURE_S:
            break
    return seconds[1:] or seconds


def checkpoint_bytes(recipe: Recipe) -> int:
    """Size of a checkpoint: weights, rotations, buffers and SGD's momentum, in float32."""
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics)
    tensors = [*model.state_dict().values(), *model.parameters()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def first_points(plan: SweepPlan, known: Lessons = NOTHING) -> dict[int, dict[str, object]]:
    """The values of the first trials by number, whose choice no result can change."""
    proposals, study = proposals_of(plan), Study(None, plan.name)
    teach(study, proposals, known)
    given = len(study.trials(TrialState.WAITING))
    sampled = 0 if known or plan.config.sampler == "grid" else proposals.num_startup
    count = min(NUM_SHOWN, plan.config.trials, max(given, sampled))
    found = [proposals.next(study) for _ in range(count)]
    return {trial.number: trial.user_attrs[VALUES] for trial in found if trial is not None}


def hours(epochs: float, forecast: Forecast, concurrent: int) -> str:
    """Time of so many epochs at so many at once, for people."""
    seconds = epochs * forecast.epoch_s / concurrent
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"
