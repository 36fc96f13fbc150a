"""Run a documented recipe, or a recorded run's exact recipe, again."""

from __future__ import annotations

from typing import Any

from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe, recipe_files
from tune.runs import Recorded, train_recorded
from tune.tracking import Tracker

FOLDERS = ("save", "resume", "evaluate")


def replay(target: str, given: dict[str, Any], tracker: Tracker) -> Recorded:
    """Replay `target`: a recipe's name or file, with options of the line on top, or a run id (or its beginning).

    A recorded run takes only options that cannot change its result (folders, printing); RecipeError otherwise.
    """
    recipe, name, source = find_recipe(target, given, tracker)
    tags = {"rbnn.replays": source} if source else {}
    return train_recorded(recipe, tracker, kind="replay", name=name, tags=tags)


def find_recipe(target: str, given: dict[str, Any], tracker: Tracker) -> tuple[Recipe, str, str]:
    """(recipe, its name, the run it comes from or "")."""
    if target in recipe_files() or "/" in target or target.endswith((".yaml", ".yml")):
        return load_recipe(target, **given), target, ""
    try:
        run = tracker.find_run(target)
    except RequestError:
        if len(target) >= 6 and all(letter in "0123456789abcdef" for letter in target.lower()):
            raise
        return load_recipe(target, **given), target, ""
    changing = [field for field in given if FIELDS[field].metadata["affects"]]
    if changing:
        raise RecipeError(f"{changing[0]} would change run {target}; to vary it, export its recipe and edit that file")
    recipe = tracker.recipe_of(run.info.run_id).replace(**dict.fromkeys(FOLDERS, ""))
    return recipe.replace(**given), run.data.tags.get("rbnn.recipe", target), run.info.run_id
