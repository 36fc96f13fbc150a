"""What `rbnn replay` is pointed at: a recipe, a recorded run, or an exported one. Without torch, so
that a wrong word is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe, recipe_files
from tune.run.record import RunRecord, is_record, read_record

FOLDERS = ("save", "resume", "evaluate")
Find = Callable[[str], RunRecord]  # the recorded run of an id, or of its beginning


def find_record(target: str, find: Find) -> RunRecord:
    """What is to be compared with: the exported file of that name, or the run of that id."""
    if is_recipe(target) and not is_record(Path(target)):
        raise RequestError(
            f"--verify compares with a recorded run, and '{target}' is a recipe; use --seeds N, or "
            "give a run id"
        )
    return read_record(Path(target)) if Path(target).is_file() else find(target)


def find_recipe(target: str, given: dict[str, Any], find: Find) -> tuple[Recipe, str, str]:
    """(recipe, its name, the run it comes from or "")."""
    if is_record(Path(target)):
        record = read_record(Path(target))
    elif is_recipe(target) or "/" in target or not looks_like_an_id(target):
        return load_recipe(target, **given), target, ""
    else:
        record = find(target)
    return with_folders(target, record.to_recipe(), given), record.recipe_name, record.run_id


def is_recipe(target: str) -> bool:
    """Whether a word names a recipe, or a file of one."""
    return target in recipe_files() or target.endswith((".yaml", ".yml"))


def looks_like_an_id(text: str) -> bool:
    """Whether a word may be the beginning of a run's id rather than a recipe's name."""
    return bool(text) and all(letter in "0123456789abcdef" for letter in text.lower())


def with_folders(target: str, recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A recorded recipe in a new folder, with options that cannot change its result on top."""
    for name in given:
        if FIELDS[name].metadata["affects"] != "nothing":
            remedy = "to vary it, export its recipe and edit that file"
            raise RecipeError(f"{name} would change run {target}; {remedy}")
    return recipe.replace(**dict.fromkeys(FOLDERS, "")).replace(**given)
