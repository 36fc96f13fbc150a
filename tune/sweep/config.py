"""SweepFile: what a sweep file in experiments/ says, strictly loaded, with its baseline recipe and
its search space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.datasets import dataset_spec
from rbnn.errors import RecipeError
from rbnn.recipe import (
    FIELDS,
    RECIPE_DIR,
    Recipe,
    check_known,
    check_milestones,
    read_recipe,
    read_yaml,
    recipe_files,
)
from rbnn.schedules import WARM_UP_EPOCHS
from tune.sweep.keys import KEYS, SCHEDULER_KEYS, check_keys
from tune.sweep.param import allowed
from tune.sweep.space import Space

VAL_FRACTION = 0.1


@dataclass(frozen=True)
class TrialScheduler:
    """Early stopping. `grace_period`: epochs that every trial gets; `reduction_factor`: one in so
    many goes on at each rung.
    """

    name: str
    grace_period: int
    reduction_factor: float
    brackets: int

    def to_dict(self) -> dict[str, Any]:
        """Its keys in a sweep file: of none, the name alone."""
        return dict(vars(self)) if self.name == "asha" else {"name": self.name}


@dataclass(frozen=True)
class SweepConfig:
    """One search: its baseline (always the first trial), its space and its budget.

    `recipe`: recipe name or absolute path, empty where the baseline is `base` over the defaults.
    `first`: settings tried after the baseline and before any is sampled; options left out are the
    baseline's. `trials`: 20 by default, or the whole grid. `time_budget_min`: minutes or None.
    `concurrent`: trials at a time, 0 as the machine allows. `gpus_per_trial`: 0 as the machine
    allows. `max_failures`: restarts of one failed trial. Sampler gp learns only from trials that
    ran to their end, so that scheduler none suits it best. `confirm_top`, `confirm_seeds`: at the
    end the best so many settings and the baseline are each trained with so many fresh seeds; 0
    seeds leaves the result unconfirmed. `storage`: URL of another Optuna storage than the sweep's
    own file. `storage_path`: of the checkpoints, a folder that all nodes share or an address in an
    object store; "" for the sweep's own folder.
    """

    name: str
    description: str
    recipe: str
    baseline: Recipe
    space: Space
    space_entries: dict[str, Any]
    first: tuple[dict[str, Any], ...]
    trials: int
    time_budget_min: float | None
    concurrent: int
    seed: int
    sampler: str
    scheduler: TrialScheduler
    workers_per_trial: int
    gpus_per_trial: float
    max_failures: int
    confirm_top: int
    confirm_seeds: int
    storage: str
    storage_path: str

    @property
    def val_fraction(self) -> float:
        """The share of the training images that trials are compared on; 0 where the data set's own
        split serves.
        """
        return self.baseline.val_fraction

    def to_dict(self) -> dict[str, Any]:
        """The resolved sweep file, plain types, `base` holding the whole baseline; `parse_sweep`
        takes it back.
        """
        values: dict[str, Any] = {
            key: getattr(self, key) for key in KEYS if key not in ("base", "space", "scheduler")
        }
        recipe = self.baseline.to_dict()
        del recipe["val_fraction"]
        values["first"] = list(self.first)
        return {
            **values,
            "base": recipe,
            "space": self.space_entries,
            "scheduler": self.scheduler.to_dict(),
        }


def sweep_files() -> dict[str, Path]:
    """The named sweep files: experiments/quickstart.yaml and experiments/sweeps/*.yaml, name ->
    file.
    """
    return {
        path.stem: path
        for path in [
            RECIPE_DIR / "quickstart.yaml",
            *sorted((RECIPE_DIR / "sweeps").glob("*.yaml")),
        ]
    }


def load_sweep(path: str | Path, **changes: Any) -> SweepConfig:
    """The sweep file at `path`, or of that name in experiments/, with `changes` to its keys on top.

    RecipeError, one line, where anything in it is not allowed.
    """
    file = Path(path) if Path(path).is_file() else sweep_files().get(str(path), Path(path))
    values = read_yaml(file, "sweep file")
    try:
        return parse_sweep({"name": file.stem, **values, **changes}, file.resolve().parent)
    except RecipeError as error:
        raise RecipeError(f"sweep file '{file}': {error}") from None


def parse_sweep(values: Mapping[str, Any], folder: Path) -> SweepConfig:
    """The SweepConfig of a mapping; `folder`: where a relative `recipe` path is looked for after
    the working directory.
    """
    check_keys(values, KEYS, "key")
    for key in ("name", "space"):
        if key not in values:
            raise RecipeError(f"{key} is missing; it must be {KEYS[key][1]}")
    if not values.get("recipe") and "base" not in values:
        raise RecipeError(
            "recipe is missing; name one (rbnn recipes lists them), or give options under base"
        )
    workers, gpus = values.get("workers_per_trial", 1), values.get("gpus_per_trial", 0)
    if workers > 1 and gpus not in (0, workers):
        raise RecipeError(
            f"gpus_per_trial is {gpus:g} for {workers} workers, and each takes one GPU; make it "
            f"{workers}, or leave it out"
        )
    recipe, baseline = _baseline(values, folder)
    space = Space(values["space"], baseline)
    baseline, sampler = space.baseline, values.get("sampler", "tpe")
    num_points = len(space.grid()) if sampler == "grid" else 20
    return SweepConfig(
        name=values["name"],
        description=values.get("description", ""),
        recipe=recipe,
        baseline=baseline,
        space=space,
        space_entries=values["space"],
        first=tuple(_within(space, point) for point in values.get("first", [])),
        trials=values.get("trials", num_points),
        time_budget_min=values.get("time_budget_min"),
        concurrent=values.get("concurrent", 0),
        seed=values.get("seed", 1234),
        sampler=sampler,
        scheduler=_scheduler(values.get("scheduler", {}), baseline, space),
        workers_per_trial=baseline.train_workers,
        gpus_per_trial=values.get("gpus_per_trial", 0),
        max_failures=values.get("max_failures", 1),
        confirm_top=values.get("confirm_top", 3),
        confirm_seeds=values.get("confirm_seeds", 3),
        storage=values.get("storage", ""),
        storage_path=values.get("storage_path", ""),
    )


def check_name(name: str) -> str:
    """`name`, "" included; RecipeError where it cannot be the name of a sweep, its folder and its
    job.
    """
    if name in (".", "..") or (name and not KEYS["name"][0](name)):
        raise RecipeError(f"name is '{name}'; it must be {KEYS['name'][1]}")
    return name


def _baseline(values: Mapping[str, Any], folder: Path) -> tuple[str, Recipe]:
    """Recipe name or path, and the recipe with `base`, val_fraction and the number of workers on
    top.
    """
    base = values.get("base", {})
    check_known(base, FIELDS, "recipe option in base")
    if "val_fraction" in base:
        raise RecipeError("base sets val_fraction; set it at the top of the sweep file instead")
    recipe = values.get("recipe", "")
    if recipe and recipe not in recipe_files():
        found = [path for path in (Path(recipe), folder / recipe) if path.is_file()]
        recipe = str(found[0].resolve()) if found else recipe
    layers = [read_recipe(recipe) if recipe else {}, base]
    baseline = Recipe(**{**layers[0], **base})
    if "lr_type" not in values["space"]:
        check_milestones([*layers, values["space"]], baseline)
    if not dataset_spec(baseline.dataset).has_test_split:
        if values.get("val_fraction"):
            raise RecipeError(
                f"val_fraction must be 0 for {baseline.dataset}, which has its own validation "
                "split; remove it"
            )
        val_fraction = 0.0
    else:
        val_fraction = values.get("val_fraction", VAL_FRACTION)
    workers = values.get("workers_per_trial", 1)
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


def _scheduler(given: Any, baseline: Recipe, space: Space) -> TrialScheduler:
    """Early stopping, refused where it would judge trials while they still warm up, or has settings
    and stops none.
    """
    values: dict[str, Any] = {"name": given} if isinstance(given, str) else given
    check_keys(values, SCHEDULER_KEYS, "key in scheduler")
    epochs, name = baseline.epochs, values.get("name", "asha")
    unused = [key for key in values if key != "name"]
    if (
        name == "none" and unused and len(values) < len(SCHEDULER_KEYS)
    ):  # sweeps were once recorded with every key
        raise RecipeError(
            f"{unused[0]} is {values[unused[0]]}, and scheduler none stops no trial; remove it, "
            "or choose asha"
        )
    grace = values.get("grace_period", min(max(WARM_UP_EPOCHS + 1, epochs // 4), epochs))
    if grace > epochs:
        raise RecipeError(
            f"grace_period is {grace} and the trials have {epochs} epochs; it must be at most that"
        )
    warm_up = space.entries.get("warm_up")
    warms_up = any(value for _, value in warm_up.choices) if warm_up else baseline.warm_up
    if name == "asha" and warms_up and grace < min(WARM_UP_EPOCHS + 1, epochs):
        raise RecipeError(
            f"grace_period is {grace}, within the warm-up of {WARM_UP_EPOCHS} epochs; give at "
            f"least {WARM_UP_EPOCHS + 1}"
        )
    return TrialScheduler(name, grace, values.get("reduction_factor", 3), values.get("brackets", 1))
