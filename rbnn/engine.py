"""The training loop: `fit` runs a recipe, `train_epoch` one epoch of it, `evaluate` the exact validation.

`report(metrics, checkpoint)` hears once per epoch: metrics by name, and on rank 0 the path of last.ckpt when a folder is given.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rbnn import checkpoint as ckpt
from rbnn.binarize import set_surrogate
from rbnn.data.loading import Batch, Loaders
from rbnn.errors import CheckpointError, NonFiniteLoss
from rbnn.layers import rotated_layers
from rbnn.machine import prepare_process
from rbnn.metrics import Counts
from rbnn.models import build
from rbnn.recipe import Recipe
from rbnn.schedules import learning_rate, surrogate_tk
from rbnn.world import World

Report = Callable[[dict[str, Any], Path | None], None]
Progress = Callable[[int, int, int], None]
LAST, BEST = "last.ckpt", "best.ckpt"


@dataclass
class Run:
    """A recipe in the making: what `fit` carries from epoch to epoch."""

    recipe: Recipe
    model: nn.Module
    optimizer: torch.optim.SGD
    device: torch.device
    world: World
    epoch: int = 0
    best_top1: float = -math.inf
    best_epoch: int = -1
    parallel: nn.Module | None = None


def fit(
    recipe: Recipe,
    loaders: Loaders,
    report: Report,
    *,
    device: torch.device | None = None,
    directory: Path | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train `recipe` from its seed, or from the checkpoint `resume`, to its last epoch; returns the finished run.

    directory: where last.ckpt and best.ckpt go after every epoch (none: no checkpoints). progress(epoch, step, num_steps) is
    called every print_freq steps. With a torch.distributed group, every rank calls this with its own loaders.
    Raises NonFiniteLoss; CheckpointError where `resume` is of another recipe or another data set.
    """
    device = device or torch.device("cpu")
    run = start(recipe, device)
    if resume is not None:
        restore(run, resume, loaders.info.fingerprint)
    if run.world.size > 1:
        ids = [device.index] if device.type == "cuda" else None
        run.parallel = DistributedDataParallel(run.model, device_ids=ids, broadcast_buffers=False)
    for epoch in range(run.epoch, recipe.epochs):
        began = time.perf_counter()
        t, k = surrogate_tk(recipe, epoch)
        lr = learning_rate(recipe, epoch)
        set_surrogate(run.model, t, k)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        if epoch % recipe.rotation_update == 0:
            update_rotations(run.model, run.world)
        train = train_epoch(run, loaders.train.epoch(epoch), epoch, loaders.train.num_batches, progress)
        train_s = time.perf_counter() - began
        run.world.broadcast_(run.model.buffers())
        val = evaluate(run.model, loaders.val)
        run.epoch = epoch + 1
        metrics: dict[str, Any] = {"epoch": epoch, **train, **val, "lr": lr, "t": t, "k": k}
        metrics["time/epoch_s"] = time.perf_counter() - began
        metrics["time/images_per_s"] = loaders.train.num_images * run.world.size / train_s
        metrics["digest"] = ckpt.state_digest(run.model)
        path = keep(run, metrics, directory, loaders.info.fingerprint) if directory and run.world.leads else None
        report(metrics, path)
    return run


def start(recipe: Recipe, device: torch.device) -> Run:
    """A run at epoch 0: process settings, network and optimiser, all from the recipe's seed."""
    prepare_process(recipe, device)
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics).to(device)
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    return Run(recipe, model, optimizer, device, World.current())


def train_epoch(
    run: Run, batches: Iterable[Batch], epoch: int, num_batches: int, progress: Progress | None = None
) -> dict[str, float]:
    """One pass over `batches`; returns train/loss, train/top1 and train/top5 over all ranks.

    The host reads nothing from a GPU between steps but every print_freq steps, when it also looks for a loss that is not
    finite (on a CPU, which is not slowed by it, after every step).
    """
    network = run.parallel or run.model
    network.train()
    counts = Counts(run.device)
    failed_step = torch.full((), num_batches, dtype=torch.int64, device=run.device)
    look_every = 1 if run.device.type == "cpu" else run.recipe.print_freq
    for step, (images, labels) in enumerate(batches):
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        detached = loss.detach()
        counts.add(logits.detach(), labels, detached)
        torch.minimum(failed_step, torch.where(torch.isfinite(detached), num_batches, step), out=failed_step)
        if (step + 1) % look_every == 0 or step + 1 == num_batches:
            _check_finite(run, epoch, int(failed_step), num_batches)
        if progress and (step + 1) % run.recipe.print_freq == 0:
            progress(epoch, step + 1, num_batches)
    run.world.sum_(counts.sums)
    return counts.metrics("train")


def _check_finite(run: Run, epoch: int, failed_step: int, num_batches: int) -> None:
    if failed_step < num_batches:
        t, k = surrogate_tk(run.recipe, epoch)
        raise NonFiniteLoss(
            f"the training loss is not finite at epoch {epoch}, step {failed_step} "
            f"(lr {learning_rate(run.recipe, epoch):g}, t {t:g}, k {k:g}); lower lr or Tmax"
        )


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
    """val/loss, val/top1, val/top5 (percent): exact counts over every batch of every rank. Binary weights are computed once."""
    device = next(model.parameters()).device
    counts = Counts(device)
    was_training = model.training
    model.eval()
    try:
        with frozen_weights(model):
            for images, labels in loader:
                counts.add(model(images), labels)
    finally:
        model.train(was_training)
    World.current().sum_(counts.sums)
    return counts.metrics("val")


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Within it, every rotated layer uses the binary weight it had on entering."""
    layers = rotated_layers(model).values()
    for layer in layers:
        layer.freeze_weight(True)
    try:
        yield
    finally:
        for layer in layers:
            layer.freeze_weight(False)


def update_rotations(model: nn.Module, world: World) -> None:
    """Update R1 and R2 of every rotated layer on rank 0 and give every rank its bits."""
    layers = rotated_layers(model).values()
    if world.leads:
        for layer in layers:
            layer.update_rotation()
    world.broadcast_([matrix for layer in layers for matrix in (layer.R1, layer.R2)])


def keep(run: Run, metrics: dict[str, Any], directory: Path, fingerprint: str) -> Path:
    """Write last.ckpt, and best.ckpt when val/top1 rose; returns the path of last.ckpt."""
    is_best = metrics["val/top1"] > run.best_top1
    if is_best:
        run.best_top1, run.best_epoch = metrics["val/top1"], metrics["epoch"]
    state = ckpt.Checkpoint(
        state_dict=run.model.state_dict(),
        recipe=run.recipe.to_dict(),
        epoch=run.epoch,
        optimizer=run.optimizer.state_dict(),
        rng=ckpt.rng_state(run.device),
        best={"top1": run.best_top1, "epoch": run.best_epoch},
        metrics=metrics,
        data=fingerprint,
    )
    ckpt.save(directory / LAST, state)
    if is_best:
        partial = directory / f".{BEST}.partial"
        shutil.copyfile(directory / LAST, partial)
        partial.replace(directory / BEST)
    return directory / LAST


def restore(run: Run, path: Path, fingerprint: str) -> None:
    """Bring a fresh run to where the checkpoint was written; CheckpointError where recipe or data are others."""
    state = ckpt.load(path)
    if not state.optimizer:
        raise CheckpointError(f"checkpoint '{path}' holds weights only and cannot be continued; use rbnn evaluate")
    own = run.recipe.to_dict(only_affecting=True)
    differing = [name for name, value in own.items() if state.recipe.get(name) != value]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"checkpoint '{path}' was written with {name} {state.recipe.get(name)!r}, this recipe has {own[name]!r}"
            f"{f' (and {len(differing) - 1} more differ)' if differing[1:] else ''}; continue with the same recipe"
        )
    if state.data != fingerprint:
        raise CheckpointError(f"checkpoint '{path}' was trained on other data ({state.data[:19]}, here {fingerprint[:19]})")
    ckpt.load_weights(run.model, state, path)
    run.optimizer.load_state_dict(state.optimizer)
    run.epoch = state.epoch
    run.best_top1, run.best_epoch = state.best["top1"], int(state.best["epoch"])
    ckpt.set_rng_state(state.rng, run.device)
