"""A run in the making: what it carries, how it starts, what it leaves in its folder, and how it
goes on from there.

last.ckpt is where a run goes on; best.ckpt is the one of the best epoch. Whatever the moment a run
is killed at, last.ckpt is whole, and what comes after it in best.ckpt or in the table of
diagnostics is written again, to the bit, by the continuation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rbnn import checkpoint as ckpt
from rbnn.diagnostics import Diagnostics, open_table
from rbnn.distributed import World
from rbnn.errors import CheckpointError, RecipeError, RunFailed
from rbnn.graphs import Captured
from rbnn.hardware import prepare_process
from rbnn.metrics import Counts
from rbnn.models import build
from rbnn.network import Network
from rbnn.recipe import FIELDS, Recipe
from rbnn.writer import Writer

LAST, BEST = "last.ckpt", "best.ckpt"


@dataclass
class TrainState:
    """What `fit` carries through a run. network: the model as it is called, compiled or not.

    epoch: completed epochs. step: completed training steps of the epoch in progress; counts,
    spent_s: what it counted so far on this rank, and the seconds that it took before the last
    resume. metrics: of the last completed epoch.
    """

    recipe: Recipe
    model: nn.Module
    network: Network
    optimizer: torch.optim.SGD
    device: torch.device
    world: World
    diagnostics: Diagnostics
    counts: Counts
    epoch: int = 0
    step: int = 0
    spent_s: float = 0.0
    best_top1: float = -math.inf
    best_epoch: int = -1
    metrics: dict[str, Any] = field(default_factory=dict)
    parallel: nn.Module | None = None
    _captured: tuple[Callable[..., Any], Captured] | None = None

    def captured(self, source: Callable[..., Any], work: Callable[..., Any]) -> Captured:
        """The captured training step: `work` of the first call with that `source` of batches."""
        if self._captured is None or self._captured[0] != source:
            self._captured = source, Captured(work)
        return self._captured[1]


def start(recipe: Recipe, device: torch.device) -> TrainState:
    """A run at epoch 0: process settings, network and optimiser, all from the recipe's seed."""
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    prepare_process(recipe, device)
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics).to(device)
    lr = recipe.lr if device.type == "cpu" else torch.tensor(recipe.lr, device=device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    network = Network(model, recipe, device)
    diagnostics = Diagnostics(model, network.captures)
    return TrainState(
        recipe, model, network, optimizer, device, World.current(), diagnostics, Counts(device)
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the steps that follow; on a GPU in place, where a captured step reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@dataclass(frozen=True)
class CheckpointWriter:
    """Writes a run's checkpoints to `directory`; fingerprint: of the run's data. Every rank calls
    it, rank 0 writes.

    writer: what writes the files; with one that has a thread, a file is there once it is done.
    """

    directory: Path
    fingerprint: str
    writer: Writer = field(default_factory=lambda: Writer(beside=False))

    def epoch(self, run: TrainState) -> Path | None:
        """After an epoch; the path of last.ckpt on rank 0.

        best.ckpt comes first: a kill between the two repeats the epoch, and writes the same
        best.ckpt again.
        """
        is_best = run.metrics["val/top1"] > run.best_top1
        if is_best:
            run.best_top1, run.best_epoch = run.metrics["val/top1"], run.metrics["epoch"]
        if not run.world.leads:
            return None
        content, recipe, num_epochs = ckpt.on_host(self.content(run, {})), run.recipe, run.epoch

        def write() -> None:
            with (
                failure_told(self.directory),
                ckpt.writing(self.directory / LAST, content()) as partial,
            ):
                if is_best:
                    ckpt.link(partial, self.directory / BEST)
                keep_periodic(partial, self.directory, recipe, num_epochs)

        self.writer.do(write)
        return self.directory / LAST

    def step(self, run: TrainState, spent_s: float) -> None:
        """In the middle of an epoch.

        Batch statistics are rank 0's: they do nothing in training, and at the epoch's end every
        rank takes rank 0's.
        """
        counts = run.world.gathered(run.counts.sums).cpu()
        if run.world.leads:
            partial = {"counts": counts, "spent_s": spent_s, "diagnosis": run.diagnostics.state()}
            content = ckpt.on_host(self.content(run, partial))

            def write() -> None:
                with failure_told(self.directory):
                    ckpt.save(self.directory / LAST, content())

            self.writer.do(write)

    def content(self, run: TrainState, partial: dict[str, Any]) -> ckpt.Checkpoint:
        """Everything that a continuation needs; `partial`: of the epoch in progress."""
        return ckpt.Checkpoint(
            state_dict=run.model.state_dict(),
            recipe=run.recipe.to_dict(),
            epoch=run.epoch,
            step=run.step,
            partial=partial,
            optimizer=run.optimizer.state_dict(),
            rng=ckpt.rng_state(run.device),
            best={"top1": run.best_top1, "epoch": run.best_epoch},
            metrics=run.metrics,
            data=self.fingerprint,
        )


@contextmanager
def failure_told(directory: Path) -> Iterator[None]:
    """Within it, a checkpoint that cannot be written, as on a full disk, is RunFailed, one line;
    the last one stays.
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"no checkpoint can be written to '{directory}': {error.strerror or error}; make "
            "room, and go on with "
            f"--resume '{directory}'"
        ) from error


def make_directory(directory: Path) -> None:
    """Make a run's folder; RecipeError, one line, where that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeEncodeError) as error:  # the latter: a locale without its characters
        reason = error.strerror if isinstance(error, OSError) else f"{error}, in '{directory.name}'"
        raise RecipeError(
            f"results_dir '{directory.parent}' cannot be written: {reason}; pass another"
        ) from None


def keep_periodic(file: Path, directory: Path, recipe: Recipe, num_epochs: int) -> None:
    """Give the checkpoint of every checkpoint_every-th epoch a name of its own; drop those beyond
    keep_checkpoints.
    """
    if not recipe.checkpoint_every or num_epochs % recipe.checkpoint_every:
        return
    ckpt.link(file, directory / f"epoch-{num_epochs:04d}.ckpt")
    kept = sorted(directory.glob("epoch-*.ckpt"), key=lambda path: (len(path.name), path.name))
    for old in kept[: -recipe.keep_checkpoints] if recipe.keep_checkpoints else []:
        old.unlink()


def open_directory(directory: Path, run: TrainState, resume: Path | None) -> None:
    """Make a run's folder ready, on rank 0: what a killed process left half written goes, what the
    run had comes along.
    """
    if not run.world.leads:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for partial in directory.glob(".*.partial"):
        partial.unlink()
    open_table(directory, resume.parent if resume else None, run.epoch)
    best = resume.parent / BEST if resume else directory / BEST
    elsewhere = best.parent.resolve() != directory.resolve()
    if elsewhere and best.is_file() and ckpt.load(best).metrics.get("epoch") == run.best_epoch:
        ckpt.link(best, directory / BEST)


def check_continues(recipe: Recipe, state: ckpt.Checkpoint, path: Path, fingerprint: str) -> None:
    """CheckpointError, one line, where a run of that recipe on data of that fingerprint cannot go
    on from the checkpoint.
    """
    if not state.optimizer:
        raise CheckpointError(
            f"checkpoint '{path}' holds weights only and cannot be continued; use rbnn evaluate"
        )
    own = recipe.to_dict("result", "bits")
    written = {name: state.recipe.get(name, FIELDS[name].default) for name in own}
    differing = [name for name, value in own.items() if written[name] != value]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"checkpoint '{path}' was written with {name} {written[name]!r}, this recipe has "
            f"{own[name]!r}"
            f"{f' (and {len(differing) - 1} more differ)' if differing[1:] else ''}; continue "
            "with the same recipe"
        )
    if state.data != fingerprint:
        raise CheckpointError(
            f"checkpoint '{path}' was trained on other data ({state.data[:19]}, here "
            f"{fingerprint[:19]})"
        )


def restore(run: TrainState, path: Path, fingerprint: str) -> None:
    """Bring a fresh run to where the checkpoint was written; raises as `check_continues` does."""
    state = ckpt.load(path)
    check_continues(run.recipe, state, path, fingerprint)
    ckpt.load_weights(run.model, state, path)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state.optimizer)
    for group, lr in zip(run.optimizer.param_groups, rates, strict=True):
        group["lr"] = lr  # a tensor on a GPU; every epoch sets its value
    run.epoch, run.step, run.metrics = state.epoch, state.step, state.metrics
    run.best_top1, run.best_epoch = state.best["top1"], int(state.best["epoch"])
    if state.step:
        run.counts.sums.copy_(state.partial["counts"][run.world.rank])
        run.spent_s = state.partial["spent_s"]
        run.diagnostics.restore(state.partial["diagnosis"])
    ckpt.set_rng_state(state.rng, run.device)
