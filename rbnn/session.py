"""One training or evaluation in the calling process: from a recipe to a finished run, for whoever
reports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rbnn import checkpoint as ckpt
from rbnn.console import EpochPrinter, TrainingBar, run_directory
from rbnn.data import describe_data, num_train_images, open_loaders
from rbnn.data.loading import DataInfo, Loaders
from rbnn.datasets import dataset_spec
from rbnn.engine import LAST, Progress, Report, TrainState, evaluate, fit
from rbnn.errors import RecipeError
from rbnn.hardware import device_of, gpu_ids, num_cores, obstacle, prepare_process
from rbnn.models import build, check_model
from rbnn.network import Network
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe, load_recipe
from rbnn.state import make_directory

# Images that a process trains on from which compiling pays: resnet20 gains 1 to 3 ms an image on a
# core, and compiling takes a minute of it.
COMPILE_FROM = 60_000


def resolve(recipe: Recipe, share: int = 1, in_turn: int = 1) -> Recipe:
    """The recipe with what depends on the machine made explicit: workers, threads, compile; model,
    GPUs, workers checked.

    share: how many such runs use the machine at once; in_turn: how many one process runs, which
    share what it compiles. Several GPUs in `gpus` mean as many workers. Raises RecipeError, and
    DataError as `compile_choice`.
    """
    check_model(recipe.model, recipe.dataset)
    gpus = gpu_ids(recipe)
    workers = recipe.train_workers
    if len(gpus) > 1 and workers == 1:
        workers = len(gpus)
    if gpus and workers != len(gpus):
        raise RecipeError(
            f"train_workers is {workers} on {len(gpus)} GPU(s); give one worker per GPU, or "
            "--gpus none"
        )
    if not gpus and workers > num_cores():
        raise RecipeError(
            f"train_workers is {workers}, but this machine has {num_cores()} cores; use at most "
            f"{num_cores()}"
        )
    threads = recipe.threads or max(1, num_cores() // (workers * share))
    return recipe.replace(
        train_workers=workers, threads=threads, compile=compile_choice(recipe, bool(gpus), in_turn)
    )


def compile_choice(recipe: Recipe, on_gpu: bool, in_turn: int) -> str:
    """`compile` as "on" or "off": auto is on where the process trains on COMPILE_FROM images or
    more, and code can be compiled.

    Raises RecipeError for "on" where it cannot, DataError for auto where the images to be counted
    are not there.
    """
    if recipe.compile == "auto" and not _trains_long(recipe, in_turn):
        return "off"
    why = "" if recipe.compile == "off" else obstacle("cuda" if on_gpu else "cpu")
    if why and recipe.compile == "on":
        raise RecipeError(f"compile is 'on', but {why}; install it, or pass --compile off")
    if why:
        print(f"compile auto: off, as {why}", file=sys.stderr)
    return "on" if recipe.compile != "off" and not why else "off"


def _trains_long(recipe: Recipe, in_turn: int) -> bool:
    """The published number is asked first: there may be fewer images, and counting them looks at
    each file.
    """
    passes = in_turn * recipe.epochs
    if passes * dataset_spec(recipe.dataset).num_train < COMPILE_FROM:
        return False
    return passes * num_train_images(recipe) >= COMPILE_FROM


@dataclass
class Session:
    """A resolved recipe with its data open and its folder chosen; nothing has run or been written
    yet.
    """

    recipe: Recipe
    directory: Path
    loaders: Loaders

    @classmethod
    def open(cls, recipe: Recipe, directory: Path) -> Session:
        """Open the data of a resolved one-worker recipe; raises as `open_loaders` does, and
        DataError for too few images.
        """
        describe_data(recipe)
        return cls(recipe, directory, open_loaders(recipe, device_of(recipe)))

    def train(self, report: Report, progress: Progress | None = None) -> TrainState:
        """Run `fit`, from `recipe.resume` where it is given; RecipeError also where the folder
        cannot be made.
        """
        if self.recipe.train_workers > 1:
            raise RecipeError(
                f"train_workers is {self.recipe.train_workers}: several workers need Ray; use "
                "rbnn train"
            )
        resume = Path(find_checkpoint(self.recipe.resume)) if self.recipe.resume else None
        make_directory(self.directory)
        return fit(
            self.recipe,
            self.loaders,
            report,
            device=device_of(self.recipe),
            directory=self.directory,
            resume=resume,
            progress=progress,
        )

    @property
    def last(self) -> Path:
        return self.directory / LAST


@dataclass(frozen=True)
class Trained:
    """A finished training. epochs: the metrics of each, by name; best_top1: the best val/top1
    (percent), epochs before a resume included; model: the network as it is after the last epoch.
    """

    recipe: Recipe
    directory: Path
    epochs: list[dict[str, Any]]
    best_top1: float
    model: nn.Module


def train(
    recipe: Recipe | str | Path,
    *,
    shown: Callable[[Recipe], EpochPrinter] | None = TrainingBar,
    **options: Any,
) -> Trained:
    """Train a recipe, by name, file or as it is, in this process, with `options` on top.

    shown: what tells how far it is: TrainingBar, a bar in a terminal or a notebook; EpochPrinter, a
    line an epoch; None, nothing. Raises RequestError, one line, before anything is written;
    RunFailed where training cannot go on.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, **options)
    elif options:
        recipe = recipe.replace(**options)
    recipe = resolve(recipe)
    session = Session.open(recipe, run_directory(recipe))
    teller = shown(recipe) if shown else None
    epochs: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        epochs.append(metrics)
        if teller:
            teller(metrics, checkpoint)

    run = session.train(report, teller.progress if teller else None)
    return Trained(recipe, session.directory, epochs, run.best_top1, run.model.eval())


def evaluate_file(recipe: Recipe, path: str) -> tuple[dict[str, float], DataInfo]:
    """Validation metrics of the checkpoint at `path` on the recipe's data; raises CheckpointError
    or DataError.
    """
    state = ckpt.load(find_checkpoint(path))
    device = device_of(recipe)
    prepare_process(recipe, device)
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics)
    ckpt.load_weights(model, state, path)
    loaders = open_loaders(recipe, device)
    network = Network(model.to(device), recipe.replace(compile="off"), device)
    return evaluate(network, loaders.val), loaders.info
