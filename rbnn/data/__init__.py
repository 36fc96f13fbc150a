"""Data sets and their loaders: `open_loaders` gives what the training loop iterates over, whatever
reads the images.

Importing this loads neither torch nor any reader: recipes are checked, and the command line
answers, without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rbnn.datasets import DATASETS, DatasetSpec, dataset_spec
from rbnn.errors import DataError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from rbnn.data.loading import DataInfo, Loaders
    from rbnn.data.source import Source
    from rbnn.distributed import World
    from rbnn.recipe import Recipe

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "dataset_spec",
    "describe_data",
    "num_train_images",
    "open_loaders",
    "open_source",
]

LOADERS = {
    "resident": "rbnn.data.resident",
    "torchvision": "rbnn.data.torchvision_loader",
    "dali": "rbnn.data.dali",
}


_sources: dict[tuple[str, str], Source] = {}


def use_source(name: str, data_path: str, source: Source) -> None:
    """Let this process use a data set that another one has read, in memory that the two may share,
    in place of reading it.
    """
    _sources[name, data_path] = source


def open_source(name: str, data_path: str) -> Source:
    """The data set of that name in that folder; raises DataError, one line, where it is missing or
    damaged.
    """
    if (name, data_path) in _sources:
        return _sources[name, data_path]
    from rbnn.data.progress import told_if_long

    module = importlib.import_module(dataset_spec(name).module)
    with told_if_long(f"reading {name} in '{data_path}'"):
        source: Source = module.open_source(name, data_path)
    return source


def num_train_images(recipe: Recipe) -> int:
    """Images that a recipe trains on, held-out ones included: as it states; as published where a
    data set is held in memory, which is read whole; else as found.

    Raises as `open_source`, which a run of the recipe in this process then need not ask again.
    """
    spec = dataset_spec(recipe.dataset)
    if recipe.train_images:
        return recipe.train_images
    if spec.in_memory:
        return spec.num_train
    return len(open_source(recipe.dataset, recipe.data_path).train)


def loader_kind(recipe: Recipe) -> str:
    """Which of LOADERS a recipe uses."""
    if recipe.use_dali:
        return "dali"
    if recipe.loader == "auto":
        return "resident" if dataset_spec(recipe.dataset).in_memory else "torchvision"
    return recipe.loader


def loader_module(recipe: Recipe) -> ModuleType:
    """What makes a recipe's loaders; DataError where DALI is wanted and not installed."""
    try:
        return importlib.import_module(LOADERS[loader_kind(recipe)])
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("nvidia"):
            raise
        raise DataError(
            "use_dali needs NVIDIA DALI; run: pip install nvidia-dali-cuda130, or pass "
            "--no_use_dali"
        ) from None


def describe_data(recipe: Recipe) -> DataInfo:
    """What a run of the recipe will train on and validate on, its loader not made, no GPU asked.

    Raises as `open_loaders`, and DataError for too few images to give every rank a batch.
    """
    from rbnn.data.loading import num_train_batches
    from rbnn.data.source import splits_of_run
    from rbnn.distributed import World

    loader_module(recipe)
    source = open_source(recipe.dataset, recipe.data_path)
    train, _, info = splits_of_run(source, recipe)
    if not num_train_batches(len(train), recipe.batch_size, World(0, recipe.train_workers)):
        raise DataError(
            f"data_path '{recipe.data_path}': the training split holds too few images for one batch"
        )
    return info


def open_loaders(recipe: Recipe, device: torch.device, world: World | None = None) -> Loaders:
    """The training and validation loaders of a recipe for one rank; every rank gets the same number
    of training batches.

    Raises DataError, one line, where the data set is missing or damaged, or DALI is wanted and not
    installed.
    """
    from rbnn.data.loading import Loaders
    from rbnn.data.source import splits_of_run
    from rbnn.distributed import World

    module = loader_module(recipe)
    train, val, info = splits_of_run(open_source(recipe.dataset, recipe.data_path), recipe)
    train_loader, val_loader = module.loaders(recipe, train, val, device, world or World())
    return Loaders(train_loader, val_loader, info)
