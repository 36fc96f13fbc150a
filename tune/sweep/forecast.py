"""`rbnn sweep FILE --dry-run`: what a sweep will cost and try, before anything is spent.

Expected epochs: every trial runs to the first rung r1, one in f goes on from each, so r1 + (r2 -
r1) / f + (r3 - r2) / f^2 ... a trial. The epoch time is a recorded one of the same network, data
and threads, or a few steps measured here and now.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from rbnn.binarize import set_surrogate
from rbnn.data import open_loaders
from rbnn.data.loading import Loaders
from rbnn.engine import evaluate
from rbnn.hardware import device_of
from rbnn.models import build
from rbnn.recipe import FIELDS, Recipe
from rbnn.schedules import surrogate_tk
from rbnn.state import start
from tune.sweep.confirm import num_confirming
from tune.sweep.plan import Plan, proposals_of
from tune.sweep.scheduler import rungs
from tune.sweep.study import VALUES, History
from tune.tracking.mirror import Tracker

NUM_SHOWN = 5
NUM_STEPS, MEASURE_S = 3, 20.0
KEPT_FILES = 2  # last.ckpt and best.ckpt
# Of what affects the result, what an epoch's time depends on.
SHAPE = (
    "dataset",
    "model",
    "batch_size",
    "batch_size_test",
    "val_fraction",
    "a32",
    "precision",
)
# A seed takes no time, and `gpus` names one GPU of several that are alike.
SAME = SHAPE + tuple(
    name
    for name, spec in FIELDS.items()
    if spec.metadata["affects"] == "bits" and name not in ("seed", "gpus")
)


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take. most, expected: epochs of the search; confirming: epochs after it.
    checkpoint: bytes of one file.

    epoch_s: seconds of an epoch of one trial, and how that is known.
    """

    rungs: list[list[int]]
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


def forecast(plan: Plan, tracker: Tracker | None) -> Forecast:
    """The forecast of a planned sweep; trains a few steps where no recorded run of the same kind is
    known.
    """
    file, epochs = plan.file, plan.recipe.epochs
    settings = file.scheduler
    brackets = range(settings.brackets) if settings.name == "asha" else []
    judged = [
        rungs(settings.grace_period, settings.reduction_factor, epochs, bracket)
        for bracket in brackets
    ] or [[]]
    each = statistics.fmean(
        expected_epochs(one, settings.reduction_factor, epochs) for one in judged
    )
    num_after = num_confirming(file.confirm_top, file.confirm_seeds, file.trials)
    epoch_s, source = (
        recorded_epoch_s(plan.recipe, tracker) if tracker else None
    ) or measured_epoch_s(plan.recipe)
    return Forecast(
        judged,
        file.trials * epochs,
        file.trials * each,
        num_after * epochs,
        epoch_s,
        source,
        checkpoint_bytes(plan.recipe),
        file.trials + num_after,
    )


def expected_epochs(judged: list[int], reduction_factor: float, num_epochs: int) -> float:
    """Epochs of a trial on average, where one in `reduction_factor` goes on at each rung."""
    ends = [0, *judged, num_epochs]
    return sum(
        (end - begin) / reduction_factor**passed
        for passed, (begin, end) in enumerate(itertools.pairwise(ends))
    )


def recorded_epoch_s(recipe: Recipe, tracker: Tracker) -> tuple[float, str] | None:
    """The median epoch of the latest recorded run of the same network on the same data with the
    same batches and threads.
    """
    values = recipe.to_dict()
    wanted = {
        name: str(values[name]).lower() if isinstance(values[name], bool) else str(values[name])
        for name in SAME
    }
    conditions = [
        f"params.`{name}` = '{wanted[name]}'"
        for name in ("dataset", "model", "batch_size", "threads")
    ]
    found = tracker.client.search_runs(
        [tracker.experiment_id],
        " and ".join(conditions),
        max_results=50,
        order_by=["attributes.start_time DESC"],
    )
    for run in found:
        alike = all(run.data.params.get(name, wanted[name]) == wanted[name] for name in SAME)
        if alike and "time/epoch_s" in run.data.metrics:
            points = tracker.client.get_metric_history(run.info.run_id, "time/epoch_s")
            seconds = statistics.median(point.value for point in points)
            return seconds, f"of run {run.info.run_id[:8]}, {len(points)} epochs recorded"
    return None


def measured_epoch_s(recipe: Recipe) -> tuple[float, str]:
    """Seconds of an epoch from a few training steps and evaluation batches in this process, after
    one of each to warm up.
    """
    alone = recipe.replace(train_workers=1)
    device = device_of(alone)
    loaders = open_loaders(alone, device)
    run = start(alone, device)
    set_surrogate(run.model, *surrogate_tk(alone, 0))
    batches = iter(loaders.train.epoch(0))
    steps = _timed(_training_steps(run.model, run.optimizer, batches, device), device)
    evaluations = _timed((evaluate(run.model, [batch]) for batch in loaders.val), device)
    step_s, val_s = statistics.median(steps), statistics.median(evaluations)
    num_val = _num_batches(loaders, alone)
    seconds = (loaders.train.num_batches * step_s + num_val * val_s) / recipe.train_workers
    return (
        seconds,
        f"measured now: {len(steps)} steps of {step_s:.3g} s, {len(evaluations)} evaluation "
        f"batches of {val_s:.3g} s",
    )


def _training_steps(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: object, device: torch.device
) -> object:
    model.train()
    for images, labels in batches:  # type: ignore[attr-defined]
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        yield


def _timed(work: object, device: torch.device) -> list[float]:
    """Seconds of each of the next few items of `work`, the first left out where there are more."""
    seconds: list[float] = []
    began = time.perf_counter()
    for _ in itertools.islice(work, NUM_STEPS + 1):  # type: ignore[call-overload]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        if sum(seconds) > MEASURE_S:
            break
    return seconds[1:] or seconds


def _num_batches(loaders: Loaders, recipe: Recipe) -> int:
    images = loaders.info.sizes.get("validation", 0)
    return -(-images // recipe.batch_size_test)


def checkpoint_bytes(recipe: Recipe) -> int:
    """Size of a checkpoint file: weights, rotations and buffers, and SGD's momentum of every
    parameter, in float32.
    """
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics)
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return state + sum(
        parameter.numel() * parameter.element_size() for parameter in model.parameters()
    )


def first_points(plan: Plan) -> list[dict[str, object]]:
    """The recipe values of the first trials: those whose choice no result can change, at most
    NUM_SHOWN.
    """
    proposals, history = proposals_of(plan), History(None, plan.name)
    proposals.enqueue(history)
    given = len(history.trials())
    sampled = 0 if plan.file.sampler == "grid" else proposals.num_startup
    count = min(NUM_SHOWN, plan.file.trials, max(given, sampled))
    found = [proposals.next(history) for _ in range(count)]
    return [trial.user_attrs[VALUES] for trial in found if trial is not None]


def hours(epochs: float, forecast: Forecast, concurrent: int) -> str:
    """Time of so many epochs at so many at once, for people."""
    seconds = epochs * forecast.epoch_s / concurrent
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"
