"""RunRecord: what one run's training depended on and what came out, by epoch; from the store or
from an exported file.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rbnn.errors import RecipeError, RequestError, one_line
from rbnn.recipe import FIELDS, Recipe
from tune.tracking.reader import RunReader

FORMAT = "rbnn-run"
VERSION = 1
KEYS = (
    "run_id",
    "name",
    "kind",
    "status",
    "recipe_name",
    "recipe",
    "environment",
    "data",
    "epochs",
)


@dataclass(frozen=True)
class Epoch:
    """One epoch (0-based): digests of the network's bits by name, metrics by name."""

    epoch: int
    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A recorded run. recipe: every option; environment: as `tune.run.environment` lists it; data:
    name, fingerprint, sizes.
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

    def to_recipe(self) -> Recipe:
        """Its recipe, checked as any recipe is."""
        return Recipe(**self.recipe)

    def write(self, path: Path) -> None:
        """One self-contained JSON file, which `read_record` takes back bit for bit."""
        seeds = {"seed": self.recipe.get("seed")}
        code = {
            "commit": self.environment.get("git_commit", ""),
            "dirty": self.environment.get("git_dirty", ""),
        }
        content = {
            "format": FORMAT,
            "version": VERSION,
            **asdict(self),
            "seeds": seeds,
            "code": code,
        }
        for epoch in content["epochs"]:
            epoch["metrics"] = {key: _written(value) for key, value in epoch["metrics"].items()}
        try:
            path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise RequestError(
                f"file '{path}' cannot be written: {error.strerror}; choose another place"
            ) from None


def is_record(path: Path) -> bool:
    """Whether the file is an exported run, by its beginning."""
    try:
        with path.open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(200)
    except OSError:
        return False


def read_record(path: Path) -> RunRecord:
    """The record in an exported file; RequestError, one line, where it is damaged, of a later
    version or something else.
    """
    refusal = "export it again: rbnn export RUN_ID FILE"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RequestError(
            f"file '{path}' is no exported run: {one_line(error)[:120]}; {refusal}"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RequestError(f"file '{path}' is no exported run; {refusal}")
    if content.get("version") != VERSION:
        found = content.get("version")
        raise RequestError(
            f"file '{path}' has format version {found}, this program reads {VERSION}; {refusal}"
        )
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise RequestError(f"file '{path}' lacks '{missing[0]}'; {refusal}")
    try:
        epochs = [
            Epoch(
                int(each["epoch"]),
                dict(each["digests"]),
                {key: float(value) for key, value in each["metrics"].items()},
            )
            for each in content["epochs"]
        ]
        record = RunRecord(**{**{key: content[key] for key in KEYS}, "epochs": epochs})
        record.to_recipe()
    except RecipeError as error:
        raise RequestError(
            f"file '{path}' holds a recipe that this program refuses: {error}"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"file '{path}' is damaged ({type(error).__name__}: {error}); {refusal}"
        ) from None
    return record


def record_of(reader: RunReader, run_id: str) -> RunRecord:
    """The record of a run in the store; RequestError where it recorded no recipe."""
    run = reader.find_run(run_id)
    run_id = run.info.run_id
    recipe = reader.recipe_of(run_id).to_dict()
    metrics: dict[int, dict[str, float]] = {}
    for key in sorted(run.data.metrics):
        for point in reader.client.get_metric_history(run_id, key):
            metrics.setdefault(point.step, {})[key] = _read(point.value)
    digests = reader.digests_of(run_id)
    epochs = [
        Epoch(epoch, digests.get(epoch, {}), metrics.get(epoch, {}))
        for epoch in sorted(metrics.keys() | digests.keys())
    ]
    sizes: dict[str, int] = {}
    data: dict[str, Any] = {
        "name": "",
        "fingerprint": run.data.tags.get("rbnn.data_fingerprint", ""),
    }
    for entry in run.inputs.dataset_inputs if run.inputs else []:
        data["name"] = json.loads(entry.dataset.source).get("name", "")
        sizes[entry.tags[0].value] = int(json.loads(entry.dataset.profile)["num_rows"])
    tags = run.data.tags
    return RunRecord(
        run_id=run_id,
        name=run.info.run_name,
        kind=tags.get("rbnn.kind", ""),
        status=run.info.status,
        recipe_name=tags.get("rbnn.recipe", ""),
        recipe={name: recipe[name] for name in FIELDS},
        environment=reader.environment_of(run_id),
        data={**data, "sizes": sizes},
        epochs=epochs,
    )


def _read(value: float) -> float:
    """MLflow stores an infinite value as the largest finite one."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _written(value: float) -> float | str:
    """JSON has no NaN and no infinity: they are written as text, which float() takes back."""
    return value if math.isfinite(value) else str(value)
