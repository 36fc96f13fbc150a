"""RunRecord: what a run depended on and what came out of it, from the store or a file; and which
one a command is pointed at. Without torch, so that a wrong word is answered at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe, recipe_files
from tune.run.journal import digests, numbers
from tune.uris import told

FORMAT = "rbnn-run"
VERSION = 1
AGAIN = "export it again: rbnn export RUN_ID FILE"
FOLDERS = ("save", "resume", "evaluate")


@dataclass(frozen=True)
class Epoch:
    """One epoch (0-based): digests of the network's bits by name, metrics by name."""

    epoch: int
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A recorded run. recipe: every option; environment: as `tune.run.environment` lists it; data:
    name, fingerprint, sizes. page: of the run, within MLflow's pages, "" where it has none.
    """

    run_id: str
    name: str
    kind: str
    status: str
    recipe_name: str
    recipe: dict[str, Any]
    environment: dict[str, str]
    data: dict[str, Any]
    epochs: list[Epoch]
    page: str = ""

    def to_recipe(self) -> Recipe:
        """Its recipe, checked as any recipe is."""
        return Recipe(**self.recipe)

    def write(self, path: Path) -> None:
        """One self-contained JSON file, which `read_record` takes back bit for bit."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del content["page"]
        content["seeds"] = {"seed": self.recipe.get("seed")}
        commit, dirty = (self.environment.get(f"git_{name}", "") for name in ("commit", "dirty"))
        content["code"] = {"commit": commit, "dirty": dirty}
        for epoch in content["epochs"]:
            epoch["metrics"] = {key: _written(value) for key, value in epoch["metrics"].items()}
        try:
            path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            problem = f"cannot be written: {error.strerror}; choose another place"
            raise RequestError(f"file '{path}' {problem}") from None


def is_record(path: Path) -> bool:
    """Whether the file is an exported run, by its beginning."""
    try:
        with path.open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(200)
    except OSError:
        return False


def read_record(path: Path) -> RunRecord:
    """The record in an exported file; RequestError, one line, where it holds none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = told(error, 120)
        raise RequestError(f"file '{path}' is no exported run: {reason}; {AGAIN}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RequestError(f"file '{path}' is no exported run; {AGAIN}")
    if (version := content.get("version")) != VERSION:
        problem = f"has format version {version}, this program reads {VERSION}"
        raise RequestError(f"file '{path}' {problem}; {AGAIN}")
    names = [spec.name for spec in fields(RunRecord) if spec.name != "page"]
    for name in names:
        if name not in content:
            raise RequestError(f"file '{path}' lacks '{name}'; {AGAIN}")
    try:
        epochs = [_read_epoch(each) for each in content["epochs"]]
        record = RunRecord(**{**{name: content[name] for name in names}, "epochs": epochs})
        record.to_recipe()
    except RecipeError as error:
        problem = "holds a recipe that this program refuses"
        raise RequestError(f"file '{path}' {problem}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"is damaged ({type(error).__name__}: {error})"
        raise RequestError(f"file '{path}' {problem}; {AGAIN}") from None
    return record


def _read_epoch(content: dict[str, Any]) -> Epoch:
    metrics = {name: float(value) for name, value in content["metrics"].items()}
    return Epoch(int(content["epoch"]), dict(content["digests"]), metrics)


def as_epoch(row: dict[str, Any]) -> Epoch:
    """A row of a run's journal, its digests apart from its metrics."""
    return Epoch(row["epoch"], digests(row), numbers(row))


def _written(value: float) -> float | str:
    """JSON has no NaN and no infinity: they are written as text, which float() takes back."""
    return value if math.isfinite(value) else str(value)


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
