"""Recipe: every hyperparameter and option of a run, once, with its meaning, unit, range and source;
strict loading from YAML.

"documented" as a source is the RBNN repository's README; "ours" is what this project adds.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rbnn.datasets import DATASETS, dataset_spec
from rbnn.errors import RecipeError, nearest
from rbnn.files import read_yaml
from rbnn.values import (
    FRACTION,
    FROM_ONE,
    FROM_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    RISING,
    SEED,
    Affects,
    converted,
    option,
    plain,
)

PACKAGE = Path(__file__).resolve().parent
# Beside the package in a source tree, inside it where it was installed.
RECIPE_DIR = next(
    (home / "experiments" for home in (PACKAGE, PACKAGE.parent) if (home / "experiments").is_dir()),
    PACKAGE,
)


@dataclass(frozen=True)
class Recipe:
    """One full set of hyperparameters; immutable and valid: construction raises RecipeError, one
    line, on a bad value.

    `model` left empty becomes the data set's documented default.
    """

    dataset: str = option("cifar10", "data set: " + ", ".join(DATASETS))
    model: str = option(
        "", "network; default resnet20_1w1a for 32x32 images, resnet18_1w1a for 224x224", short="a"
    )
    epochs: int = option(1000, "number of training epochs", FROM_ONE)
    batch_size: int = option(
        256, "training batch size, over all workers together", FROM_ONE, short="b"
    )
    batch_size_test: int = option(
        128, "evaluation batch size, over all workers together", FROM_ONE, short="bt"
    )
    lr: float = option(0.1, "learning rate of SGD", POSITIVE)
    momentum: float = option(0.9, "momentum of SGD", FRACTION)
    weight_decay: float = option(1e-4, "weight decay, on every parameter", NOT_NEGATIVE)
    lr_type: Literal["cos", "step"] = option(
        "cos", "learning-rate schedule: cos (cosine annealing) or step (MultiStepLR)"
    )
    lr_decay_step: tuple[int, ...] = option(
        (), "milestones of lr_type step, in epochs, e.g. 30 60 90", RISING
    )
    warm_up: bool = option(False, "raise the learning rate linearly over the first 5 epochs")
    Tmin: float = option(1e-2, "the smallest t of the surrogate gradient", POSITIVE)
    Tmax: float = option(1e1, "the largest t of the surrogate gradient; above Tmin", POSITIVE)
    rotation_update: int = option(1, "update the rotations every n epochs", FROM_ONE)
    a32: bool = option(False, "keep activations at 32 bits (1W32A)")
    semantics: Literal["reference", "through_rotation"] = option(
        "reference",
        "where the gradient stops: reference (at the rotated weight, as the authors' code) or "
        "through_rotation",
    )
    use_dali: bool = option(False, "load data with NVIDIA DALI", affects="bits")
    loader: Literal["auto", "resident", "torchvision"] = option(
        "auto",
        "loader without DALI: resident (images in memory, augmented in batch) or torchvision; "
        "auto takes the faster",
        affects="bits",
    )
    val_fraction: float = option(
        0.0,
        "share of the training images held out, stratified, for val/*; 0 validates on the data "
        "set's own split",
        FRACTION,
    )
    train_images: int = option(
        0, "training images to use, the first of a fixed stratified order; 0: all", FROM_ZERO
    )
    seed: int = option(
        1234, "seed of initialisation, data order and augmentation", SEED, affects="bits"
    )
    train_workers: int = option(
        1,
        "training processes (Ray Train workers); batches are split among them",
        FROM_ONE,
        affects="bits",
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "run full batches through torch.compile; auto: where a process trains enough to earn it "
        "back, not on clusters",
        affects="bits",
    )
    # Not of the bits alone: reduced precision may cost accuracy, so it is stated with a result.
    precision: Literal["float32", "tf32", "bf16"] = option(
        "float32",
        "of float convolutions and gradients; the forward binary convolution is exact in each of "
        "them",
    )
    threads: int = option(
        0,
        "CPU threads per training process; 0 shares the cores. Results depend on it",
        FROM_ZERO,
        affects="bits",
    )
    workers: int = option(8, "data loading processes or threads", FROM_ZERO, affects="nothing")
    gpus: str = option(
        "",
        'GPUs to use, e.g. "0,1"; "none" for the CPU; empty: a GPU where there is one',
        affects="bits",
    )
    data_path: str = option("./data", "folder that holds the data set", affects="nothing")
    results_dir: str = option("./result", "folder that results go under", affects="nothing")
    save: str = option(
        "",
        "name of this run's folder under results_dir; default: recipe and time",
        affects="nothing",
    )
    checkpoint_steps: int = option(
        0,
        "also checkpoint every n steps within an epoch; 0: at the end of each epoch only",
        FROM_ZERO,
        affects="nothing",
    )
    checkpoint_every: int = option(
        0,
        "also keep the checkpoint of every n-th epoch, as epoch-NNNN.ckpt; 0: last and best only",
        FROM_ZERO,
        affects="nothing",
    )
    keep_checkpoints: int = option(
        0, "of those of checkpoint_every, keep the newest n; 0: all", FROM_ZERO, affects="nothing"
    )
    resume: str = option("", "checkpoint, or folder of a run, to continue from", affects="nothing")
    evaluate: str = option(
        "", "checkpoint file to evaluate instead of training", short="e", affects="nothing"
    )
    print_freq: int = option(100, "print progress every n steps", FROM_ONE, affects="nothing")
    time_estimate: int = option(
        1, "print the estimated finish time; 0 turns it off", FROM_ZERO, affects="nothing"
    )

    def __post_init__(self) -> None:
        for name in FIELDS:
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        dataset = dataset_spec(self.dataset)
        if not self.model:
            object.__setattr__(self, "model", dataset.default_model)
        self._check_together()

    def _check_together(self) -> None:
        if self.Tmin >= self.Tmax:
            raise RecipeError(
                f"Tmin is {self.Tmin:g} and Tmax {self.Tmax:g}; Tmin must be below Tmax: swap or "
                "change them"
            )
        if self.lr_type == "step" and not self.lr_decay_step:
            raise RecipeError(
                "lr_type is step and lr_decay_step is empty; give the milestones, e.g. "
                "lr_decay_step 30 60 90"
            )
        # Batch normalisation of a single vector is not defined.
        least = 2 * self.train_workers
        if self.batch_size < least:
            raise RecipeError(
                f"batch_size is {self.batch_size} for {self.train_workers} worker(s); it must be "
                f"at least {least}"
            )
        if self.use_dali and self.loader != "auto":
            raise RecipeError(
                f"loader is '{self.loader}' and use_dali is on; pass --no_use_dali, or leave "
                "loader at auto"
            )
        if self.loader == "resident" and not dataset_spec(self.dataset).in_memory:
            raise RecipeError(
                f"loader 'resident' holds a data set in memory, {self.dataset} is too large; "
                "choose torchvision"
            )

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; RecipeError for an unknown field or a bad value."""
        check_known(changes, FIELDS, "recipe option")
        return dataclasses.replace(self, **changes)

    def to_dict(self, *affecting: Affects) -> dict[str, Any]:
        """Field name -> value, plain Python types; of the options that affect one of `affecting`,
        or of all.
        """
        return {
            name: plain(getattr(self, name))
            for name, spec in FIELDS.items()
            if not affecting or spec.metadata["affects"] in affecting
        }

    def to_yaml(self) -> str:
        """The whole recipe as a recipe file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


FIELDS: dict[str, dataclasses.Field[Any]] = {spec.name: spec for spec in dataclasses.fields(Recipe)}
TYPES: dict[str, Any] = typing.get_type_hints(Recipe)


def check_known(mapping: Mapping[str, Any], known: Mapping[str, Any], kind: str) -> None:
    """RecipeError naming the first key of `mapping` that is not in `known`, with the nearest that
    are.
    """
    for key in mapping:
        if key not in known:
            raise RecipeError(f"{kind} '{key}' is unknown; nearest: {nearest(str(key), known)}")


def checked(name: str, value: Any) -> Any:
    """`value` as a recipe holds it under `name`, e.g. 0.01 of the text 1e-2; RecipeError where no
    recipe may hold it, whatever its other options.
    """
    value = converted(name, TYPES[name], value)
    check = FIELDS[name].metadata["check"]
    if check and not check[0](value):
        raise RecipeError(f"{name} is {plain(value)!r}; it must be {check[1]}")
    return value


def recipe_files() -> dict[str, Path]:
    """The named recipes: name -> file, sorted."""
    return {path.stem: path for path in sorted((RECIPE_DIR / "recipes").glob("*.yaml"))}


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """What the recipe of that name in experiments/recipes, or that file, states; raises as
    `load_recipe`.
    """
    named = recipe_files()
    path = named.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        near = nearest(str(name_or_path), named)
        raise RecipeError(
            f"recipe '{name_or_path}' does not exist; nearest: {near} (or give a file)"
        )
    values = read_yaml(path, "recipe file")
    check_known(values, FIELDS, "recipe option")
    return values


def documented_accuracies() -> dict[str, dict[str, Any]]:
    """Recipe name -> top1, top5 (percent) and spread ([low, high] of top1), each where it is
    documented.
    """
    return read_yaml(RECIPE_DIR / "documented.yaml", "file")


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """The recipe of that name in experiments/recipes, or in that file, with `overrides` on top.

    Raises RecipeError, one line, for a name that does not exist (with the nearest ones), an unknown
    key or a bad value.
    """
    values = read_recipe(name_or_path)
    check_known(overrides, FIELDS, "recipe option")
    recipe = Recipe(**{**values, **overrides})
    check_milestones([values, overrides], recipe)
    return recipe


def check_milestones(layers: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    """RecipeError where `layers`, each on top of those before it, give lr_decay_step to a recipe
    that is not of lr_type step.

    A layer that states lr_type takes the place of earlier ones, milestones and all. One that states
    every option (but val_fraction, which a sweep file keeps elsewhere, and what is newer) was
    recorded, and may hold milestones that were searched together with lr_type.
    """
    given = False
    for layer in layers:
        stands = given and "lr_type" not in layer
        is_whole = layer.keys() >= FIELDS.keys() - {"val_fraction", "train_images"}
        given = stands or (bool(layer.get("lr_decay_step")) and not is_whole)
    if given and recipe.lr_type != "step":
        stated = f"lr_decay_step is {list(recipe.lr_decay_step)}, and lr_type {recipe.lr_type}"
        remedy = "give lr_type step, or leave lr_decay_step out"
        raise RecipeError(f"{stated} has no milestones; {remedy}")
