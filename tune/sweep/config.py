"""SweepConfig: what a sweep file in experiments/ says, strictly loaded; a field for each key."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn import recipe as recipes
from rbnn.datasets import dataset_spec
from rbnn.errors import RecipeError
from rbnn.recipe import FIELDS, Recipe, check_known
from rbnn.schedules import WARM_UP_EPOCHS
from tune.sweep import keys
from tune.sweep.keys import SAMPLERS, SCHEDULERS, key, keys_of, one_of, whole, with_defaults
from tune.sweep.param import allowed
from tune.sweep.space import Space

NUM_TRIALS, VAL_FRACTION = 20, 0.1
# How much shorter schedules are, at least, and by default at most; with gp they are of one length.
SHORTER, SHORTEST = 3, 9


@dataclass(frozen=True)
class TrialScheduler:
    """asha: all trials get `grace_period` epochs; then one in `reduction_factor` passes each rung.
    short: settings are drawn for complete schedules of `grace_period` epochs at least, and one in
    `reduction_factor` goes on to the next longer one, about SHORTER times as long; with sampler gp
    the first 2 `reduction_factor` are, and all others are whole.
    """

    name: str = key(None, one_of(SCHEDULERS))
    grace_period: int = key(None, whole(1))
    reduction_factor: float = key(3, keys.FACTOR)
    brackets: int = key(1, whole(1))

    def to_dict(self) -> dict[str, Any]:
        """Its keys in a sweep file: of none, the name alone."""
        known = dict(vars(self)) if self.name != "none" else {"name": self.name}
        if self.name == "short":
            del known["brackets"]
        return known

    def lengths(self, num_epochs: int) -> list[int]:
        """The epochs after which trials are compared, the last those of a whole training."""
        if self.name == "none":
            return [num_epochs]
        if self.name == "asha":
            return [*rungs(self.grace_period, self.reduction_factor, num_epochs), num_epochs]
        shorter = (num_epochs / SHORTER**k for k in itertools.count())
        found = itertools.takewhile(lambda length: length >= self.grace_period, shorter)
        return sorted({round(length) for length in found})


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """One search: its baseline (always the first trial), its space and its budget.

    `recipe`: recipe name or absolute path, empty where the baseline is `base` over the
    defaults. `first`: settings tried after the baseline and before any is sampled; options left
    out are the baseline's. `trials`: 20 by default, or the whole grid. `time_budget_min`:
    minutes or None. `concurrent`: trials at a time, 0 as the machine allows. `gpus_per_trial`:
    0 as the machine allows. `mps`: whether trials that share a GPU of this machine compute at
    the same time, by CUDA's MPS where it is installed. `max_failures`: restarts of one failed
    trial. `confirm_top`, `confirm_seeds`: at the end the best so many settings and the baseline
    are each trained with so many fresh seeds; 0 seeds leaves the result unconfirmed. `storage`:
    URL of another Optuna storage than the sweep's own file. `storage_path`: of the checkpoints,
    a folder that all nodes share or an address in an object store; "" for the sweep's own
    folder. `val_fraction`: the share of the training images that trials are compared on; 0
    where the data set's own split serves. `entries`: of the space, as given.
    """

    name: str = key("", keys.NAME)
    description: str = key("", keys.TEXT)
    recipe: str = key("", keys.TEXT)
    baseline: Recipe = key({}, keys.OPTIONS, "base")
    space: Space = key({}, keys.RANGES)
    entries: dict[str, Any]
    first: tuple[dict[str, Any], ...] = key((), keys.SETTINGS)
    trials: int = key(None, whole(1))
    time_budget_min: float | None = key(None, keys.MINUTES)
    concurrent: int = key(0, whole(0))
    seed: int = key(1234, whole(0))
    sampler: str = key("gp", one_of(SAMPLERS))
    scheduler: TrialScheduler = key({}, keys.SCHEDULER)
    workers_per_trial: int = key(1, whole(1))
    gpus_per_trial: float = key(0, keys.GPUS)
    mps: bool = key(True, keys.FLAG)
    max_failures: int = key(1, whole(0))
    confirm_top: int = key(3, whole(1))
    confirm_seeds: int = key(3, whole(0))
    storage: str = key("", keys.TEXT)
    storage_path: str = key("", keys.TEXT)
    val_fraction: float = key(None, keys.SHARE)

    def to_dict(self) -> dict[str, Any]:
        """The resolved sweep file, its whole baseline under `base`; `parse_sweep` takes it back."""
        base = self.baseline.to_dict()
        del base["val_fraction"]
        derived = {"base": base, "space": self.entries, "scheduler": self.scheduler.to_dict()}
        plain = {name: getattr(self, name) for name in KEYS if name not in derived}
        return {**plain, **derived, "first": list(self.first)}


def rungs(
    grace_period: int, reduction_factor: float, num_epochs: int, bracket: int = 0
) -> list[int]:
    """Epochs after which ASHA judges, e.g. [60, 180] for grace period 60, factor 3, 400 epochs."""
    milestones = (
        math.ceil(grace_period * reduction_factor ** (k + bracket) - 1e-9)
        for k in itertools.count()
    )
    return list(itertools.takewhile(lambda epoch: epoch < num_epochs, milestones))


KEYS, SCHEDULER_KEYS = keys_of(SweepConfig), keys_of(TrialScheduler)


def sweep_files() -> dict[str, Path]:
    """The named sweep files, experiments/quickstart.yaml and experiments/sweeps/*.yaml, by name."""
    files = [
        recipes.RECIPE_DIR / "quickstart.yaml",
        *sorted((recipes.RECIPE_DIR / "sweeps").glob("*.yaml")),
    ]
    return {path.stem: path for path in files}


def load_sweep(path: str | Path, **changes: Any) -> SweepConfig:
    """The sweep file at `path`, or of that name in experiments/, with `changes` to its keys."""
    file = Path(path) if Path(path).is_file() else sweep_files().get(str(path), Path(path))
    values = recipes.read_yaml(file, "sweep file")
    try:
        return parse_sweep({"name": file.stem, **values, **changes}, file.resolve().parent)
    except RecipeError as error:
        raise RecipeError(f"sweep file '{file}': {error}") from None


def parse_sweep(values: Mapping[str, Any], folder: Path) -> SweepConfig:
    """The SweepConfig of a mapping; a relative `recipe` is looked for here, then in `folder`."""
    given = with_defaults(values, KEYS, "key")
    for name in ("name", "space"):
        if name not in values:
            raise RecipeError(f"{name} is missing; it must be {KEYS[name]['must']}")
    if not given["recipe"] and "base" not in values:
        raise RecipeError(
            "recipe is missing; name one (rbnn recipes lists them), or give options under base"
        )
    workers, gpus = given["workers_per_trial"], given["gpus_per_trial"]
    if workers > 1 and gpus not in (0, workers):
        raise RecipeError(
            f"gpus_per_trial is {gpus:g} for {workers} workers, and each takes one GPU; make it "
            f"{workers}, or leave it out"
        )
    recipe, baseline = _baseline(given, folder)
    space = Space(given["space"], baseline)
    num_trials = len(space.grid()) if given["sampler"] == "grid" else NUM_TRIALS
    resolved = {
        "recipe": recipe,
        "baseline": space.baseline,
        "space": space,
        "entries": given["space"],
        "first": tuple(_within(space, point) for point in given["first"]),
        "trials": given["trials"] or num_trials,
        "scheduler": _scheduler(given["scheduler"], space, given["sampler"]),
        "workers_per_trial": space.baseline.train_workers,
        "val_fraction": space.baseline.val_fraction,
    }
    del given["base"]
    return SweepConfig(**{**given, **resolved})


def check_name(name: str) -> str:
    """`name`, "" included; RecipeError where it cannot be that of a sweep, its folder and job."""
    if name in (".", "..") or (name and not keys.is_name(name)):
        raise RecipeError(f"name is '{name}'; it must be {KEYS['name']['must']}")
    return name


def _baseline(given: Mapping[str, Any], folder: Path) -> tuple[str, Recipe]:
    """Recipe name or path; the recipe with `base`, val_fraction and the workers on top."""
    base, recipe, val_fraction = given["base"], given["recipe"], given["val_fraction"]
    check_known(base, FIELDS, "recipe option in base")
    if "val_fraction" in base:
        raise RecipeError("base sets val_fraction; set it at the top of the sweep file instead")
    if recipe and recipe not in recipes.recipe_files():
        found = [path for path in (Path(recipe), folder / recipe) if path.is_file()]
        recipe = str(found[0].resolve()) if found else recipe
    layers = [recipes.read_recipe(recipe) if recipe else {}, base]
    baseline = Recipe(**{**layers[0], **base})
    if "lr_type" not in given["space"]:
        recipes.check_milestones([*layers, given["space"]], baseline)
    own_split = not dataset_spec(baseline.dataset).has_test_split
    if own_split and val_fraction:
        raise RecipeError(
            f"val_fraction must be 0 for {baseline.dataset}, which has its own validation split; "
            "remove it"
        )
    if val_fraction is None:
        val_fraction = 0.0 if own_split else VAL_FRACTION
    workers = given["workers_per_trial"]
    return recipe, baseline.replace(val_fraction=val_fraction, train_workers=workers)


def _within(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A setting of `first`, all of it searched and in its range."""
    check_known(point, space.entries, "searched option in first")
    try:
        values = {name: allowed(name, value) for name, value in point.items()}
        space.raw(values)
    except RecipeError as error:
        raise RecipeError(f"first: {error}") from None
    return values


def _scheduler(given: Any, space: Space, sampler: str) -> TrialScheduler:
    """How trials are compared early: by short schedules unless the file says otherwise, by ASHA
    where keys are given and no name. ASHA never judges trials that still warm up.
    """
    named: dict[str, Any] = {"name": given} if isinstance(given, str) else given
    unfit = "sampler grid tries each setting once" if sampler == "grid" else ""
    if "lr_type" in space.entries or space.baseline.lr_type == "step":
        unfit = unfit or "lr_decay_step names epochs, which shorter schedules do not reach"
    named = {"name": "asha" if unfit or named else "short", **named}
    values = with_defaults(named, SCHEDULER_KEYS, "key in scheduler")
    name, epochs, past_warm_up = values["name"], space.baseline.epochs, WARM_UP_EPOCHS + 1
    if name == "short" and unfit:
        raise RecipeError(f"scheduler is short, and {unfit}; choose asha or none")
    if values["grace_period"] is None:
        shortest = SHORTER if sampler == "gp" else SHORTEST
        least = max(1, epochs // shortest) if name == "short" else max(past_warm_up, epochs // 4)
        values["grace_period"] = min(least, epochs)
    grace = values["grace_period"]
    if grace > epochs:
        raise RecipeError(
            f"grace_period is {grace} and the trials have {epochs} epochs; it must be at most that"
        )
    warm_up = space.entries.get("warm_up")
    warms_up = any(v for _, v in warm_up.choices) if warm_up else space.baseline.warm_up
    if name == "asha" and warms_up and grace < min(past_warm_up, epochs):
        raise RecipeError(
            f"grace_period is {grace}, within the warm-up of {WARM_UP_EPOCHS} epochs; give at "
            f"least {past_warm_up}"
        )
    unused = [each for each in named if each != "name"] if name == "none" else []
    if name == "short" and "brackets" in named:
        unused = ["brackets"]
    if unused:
        raise RecipeError(
            f"{unused[0]} is {named[unused[0]]}, and scheduler {name} has none; remove it, or "
            "choose asha"
        )
    return TrialScheduler(**values)
