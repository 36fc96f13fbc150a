"""The training loop: `fit` runs a recipe, `train_epoch` one epoch of it, `evaluate` the exact
validation.

`report(metrics, checkpoint)` hears once per epoch: metrics by name, and on rank 0 the path of
last.ckpt when a folder is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rbnn import checkpoint as ckpt
from rbnn.binarize import set_surrogate
from rbnn.data.loading import Batch, Drawn, Loaders, dead_loaders_told
from rbnn.datasets import dataset_spec
from rbnn.diagnostics import append_rows
from rbnn.distributed import World
from rbnn.errors import NonFiniteLoss
from rbnn.layers import rotated_layers
from rbnn.metrics import Counts, Waiting, counted
from rbnn.network import Network
from rbnn.recipe import Recipe
from rbnn.schedules import learning_rate, surrogate_tk
from rbnn.state import (
    BEST,
    LAST,
    CheckpointWriter,
    TrainState,
    open_directory,
    restore,
    set_learning_rate,
    start,
)
from rbnn.step import take_step
from rbnn.weights import weights_given
from rbnn.writer import Writer

__all__ = [
    "BEST",
    "LAST",
    "Progress",
    "Report",
    "TrainState",
    "evaluate",
    "fit",
    "restore",
    "rotate_and_broadcast",
    "start",
    "train_epoch",
]

Report = Callable[[dict[str, Any], Path | None], None]
Progress = Callable[[int, int, int], None]


def fit(
    recipe: Recipe,
    loaders: Loaders,
    report: Report,
    *,
    device: torch.device | None = None,
    directory: Path | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> TrainState:
    """Train `recipe` from its seed, or from the checkpoint `resume`, to its last epoch; returns the
    finished run.

    directory: where last.ckpt and best.ckpt go after every epoch, and every checkpoint_steps steps
    (none: no checkpoints), and the table of diagnostics. progress(epoch, step, num_steps) is called
    every print_freq steps. With a torch.distributed group, every rank calls this with its own
    loaders.

    A resumed run reports its last complete epoch once more before it goes on: it may have been
    killed before that was heard. Raises NonFiniteLoss; CheckpointError where `resume` is of another
    recipe or another data set.
    """
    run = start(recipe, device or torch.device("cpu"))
    if resume is not None:
        restore(run, resume, loaders.info.fingerprint)
    writer = Writer(beside=run.device.type == "cuda" and run.world.size == 1)
    checkpoints = (
        CheckpointWriter(directory, loaders.info.fingerprint, writer) if directory else None
    )
    telling = Telling(report, writer)
    if directory:
        open_directory(directory, run, resume)
    if run.metrics:
        report(run.metrics, resume if run.world.leads else None)
    if run.world.size > 1 and run.epoch < recipe.epochs:
        run.parallel = in_parallel(run)
    with dead_loaders_told(), closing(writer):
        while run.epoch < recipe.epochs:
            telling.hear(*run_epoch(run, loaders, checkpoints, progress, telling.between))
        telling.finish()
    return run


class Telling:
    """Hands every epoch to `report` once its checkpoint is written, in order: at once, or, where a
    thread writes it, between two of the next epoch's steps.
    """

    def __init__(self, report: Report, writer: Writer) -> None:
        self.report, self.writer = report, writer
        self.untold: tuple[dict[str, Any], Path | None] | None = None

    def hear(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """An epoch that ended; the checkpoint before its own is written by now."""
        self._tell()
        self.untold = metrics, checkpoint
        if self.writer.is_done():
            self._tell()

    def between(self, batches: Iterable[Batch | Drawn]) -> Iterator[Batch | Drawn]:
        """The batches; an epoch that was waiting for its checkpoint is told between two."""
        for batch in batches:
            yield batch
            if self.untold and self.writer.is_done():
                self._tell()

    def finish(self) -> None:
        """Tell what is untold, once it is written."""
        self.writer.wait()
        self._tell()

    def _tell(self) -> None:
        if self.untold:
            told, self.untold = self.untold, None
            self.report(*told)


def in_parallel(run: TrainState) -> nn.Module:
    """The network under DistributedDataParallel, its gradient buckets in the order that they keep.

    DDP orders them anew after its first backward, and with more than two ranks the order in which a
    gradient is summed depends on its place in a bucket: without this step on nothing, a resumed
    run's first step would not have the bits of the uninterrupted one's.
    """
    ids = [run.device.index] if run.device.type == "cuda" else None
    parallel = DistributedDataParallel(run.network, device_ids=ids, broadcast_buffers=False).train()
    size = dataset_spec(run.recipe.dataset).image_size
    before = [buffer.clone() for buffer in run.model.buffers()]
    logits = parallel(
        torch.zeros(run.recipe.batch_size // run.world.size, 3, size, size, device=run.device)
    )
    logits.sum().backward()
    run.optimizer.zero_grad()
    for buffer, value in zip(run.model.buffers(), before, strict=True):
        buffer.copy_(value)
    return parallel


def run_epoch(
    run: TrainState,
    loaders: Loaders,
    checkpoints: CheckpointWriter | None,
    progress: Progress | None = None,
    between: Callable[[Iterable[Batch | Drawn]], Iterable[Batch | Drawn]] = iter,
) -> tuple[dict[str, Any], Path | None]:
    """Train and validate one epoch, or what is left of it, and keep its checkpoint: what `report`
    is to hear. between: what hands on the training batches, and may do something between two.
    """
    recipe, epoch = run.recipe, run.epoch
    began = time.perf_counter() - run.spent_s
    t, k = surrogate_tk(recipe, epoch)
    lr = learning_rate(recipe, epoch)
    set_surrogate(run.model, t, k)
    set_learning_rate(run.optimizer, lr)
    if run.step == 0:
        begin_epoch(run)
    batches = between(loaders.train.epoch(epoch, run.step))
    train = train_epoch(run, batches, loaders.train.num_batches, checkpoints, progress)
    train_s = time.perf_counter() - began
    run.world.broadcast_(run.model.buffers())
    val = evaluate(run.network, loaders.val)
    diagnostics, rows = run.diagnostics.end(epoch)
    run.epoch, run.step, run.spent_s = epoch + 1, 0, 0.0
    run.metrics = {"epoch": epoch, **train, **val, "lr": lr, "t": t, "k": k, **diagnostics}
    run.metrics["time/epoch_s"] = time.perf_counter() - began
    run.metrics["time/images_per_s"] = loaders.train.num_images * run.world.size / train_s
    if run.device.type == "cuda":
        run.metrics["gpu/memory_gib"] = torch.cuda.max_memory_reserved(run.device) / 2**30
    run.metrics["digest"] = ckpt.state_digest(run.model)
    run.world.check_equal(run.metrics["digest"], f"weights and rotations after epoch {epoch}")
    if checkpoints and run.world.leads:
        append_rows(checkpoints.directory, rows)
    return run.metrics, checkpoints.epoch(run) if checkpoints else None


def begin_epoch(run: TrainState) -> None:
    """What precedes an epoch's first step: the rotation update where it is due, and counts from
    zero.
    """
    run.diagnostics.begin()
    if run.epoch % run.recipe.rotation_update == 0:
        run.diagnostics.before_update()
        rotate_and_broadcast(run.network, run.world)
        run.diagnostics.after_update()


def train_epoch(
    run: TrainState,
    batches: Iterable[Batch | Drawn],
    num_batches: int,
    checkpoints: CheckpointWriter | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """One pass over `batches`, from step run.step on; returns train/loss, train/top1 and train/top5
    over all ranks.

    time/data_wait is the share of the time that this process waited for batches (on a GPU, that the
    host did).

    The host reads nothing from a GPU between steps but every print_freq steps and for a checkpoint,
    when it also looks for a loss that is not finite (on a CPU, which is not slowed by it, after
    every step).
    """
    (run.parallel or run.network).train()
    began = time.perf_counter() - run.spent_s
    run.counts.begin(run.step)
    look_every = 1 if run.device.type == "cpu" else run.recipe.print_freq
    waiting = Waiting(batches)
    for batch in waiting:
        take_step(run, batch)
        run.step += 1
        is_last = run.step == num_batches
        keeps = bool(
            checkpoints
            and run.recipe.checkpoint_steps
            and run.step % run.recipe.checkpoint_steps == 0
            and not is_last
        )
        if run.step % look_every == 0 or keeps or is_last:
            _check_finite(run)
        if keeps and checkpoints:
            checkpoints.step(run, time.perf_counter() - began)
        if progress and run.step % run.recipe.print_freq == 0:
            progress(run.epoch, run.step, num_batches)
    run.world.sum_(run.counts.sums)
    return run.counts.metrics("train") | {"time/data_wait": waiting.share}


def _check_finite(run: TrainState) -> None:
    failed_step = int(run.counts.finite_steps)
    if failed_step < run.step:
        t, k = surrogate_tk(run.recipe, run.epoch)
        raise NonFiniteLoss(
            f"the training loss is not finite at epoch {run.epoch}, step {failed_step} "
            f"(lr {learning_rate(run.recipe, run.epoch):g}, t {t:g}, k {k:g}); lower lr or Tmax"
        )


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
    """val/loss, val/top1, val/top5 (percent): exact counts over every batch of every rank. Binary
    weights are computed once, or, where batches are captured, within each.
    """
    counts = Counts(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        if isinstance(model, Network) and model.captures:
            for images, labels in loader:
                counts.sums += model.score(images, labels)
        else:
            with weights_given([*rotated_layers(model).values()]):
                for images, labels in loader:
                    counts.sums += counted(model(images), labels)
    finally:
        model.train(was_training)
    World.current().sum_(counts.sums)
    return counts.metrics("val")


def rotate_and_broadcast(network: Network, world: World) -> None:
    """Update R1 and R2 of every rotated layer on rank 0 and give every rank its bits."""
    if world.leads:
        network.rotate()
    world.broadcast_([matrix for layer in network.layers for matrix in (layer.R1, layer.R2)])
