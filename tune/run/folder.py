"""A run's folder: the record of one training, trial or sweep. Everything else reads it.

run.json            `RunInfo`: which run it is, and how it stands; of a sweep: sweep.json
recipe.yaml         what was trained; environment.yaml, source_changes.diff: on what, with what
metrics.jsonl       its epochs, digests among them (tune/run/journal.py)
points.jsonl        values that do not come by epoch: those of a sweep, of several seeds
last.ckpt, best.ckpt, diagnostics.csv, diagnostics.png, verdict.json
mirror.json         where a tracker keeps its copy of the run; may be deleted at any time
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from rbnn.errors import RequestError
from rbnn.files import YAML_LOADER, write_atomically
from rbnn.recipe import Recipe, load_recipe
from tune.process import Process
from tune.run.environment import run_environment, source_changes
from tune.run.journal import Journal, append_line, read_lines
from tune.uris import without_secrets

RUN_FILE, SWEEP_RECORD, MIRROR_FILE, LOCK_FILE = "run.json", "sweep.json", "mirror.json", ".lock"
RECIPE, ENVIRONMENT, CHANGES = "recipe.yaml", "environment.yaml", "source_changes.diff"
POINTS = "points.jsonl"
Kind = Literal["train", "sweep", "trial", "confirm", "replay", "evaluate"]
State = Literal["running", "complete", "pruned", "killed", "failed", "finished", "stopped", "died"]
Info = TypeVar("Info", bound="RunInfo")


@dataclass(frozen=True)
class RunInfo:
    """What run.json holds.

    id: 32 hexadecimal digits, random, written once. parent: the id of the run that it belongs to.
    tags, params: beside those that follow from the recipe. values: what a trial tried. data: name,
    fingerprint and sizes of the data set. process: the `Process` that works on it. began, ended:
    seconds since 1970. state: as the last process left it. cause: why it failed or stopped.
    """

    id: str = ""
    kind: Kind = "train"
    name: str = ""
    parent: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    ended: float | None = None
    state: State = "running"
    cause: str = ""

    @classmethod
    def of(cls: type[Info], content: Mapping[str, Any]) -> Info:
        """The info in a file's content; keys of other versions are passed over."""
        known = {spec.name for spec in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


class RunFolder:
    """The folder of one run. One process writes at a time; any process may read at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def begin(cls, directory: Path, info: RunInfo, recipe: Recipe | None) -> RunFolder:
        """Record in `directory` a run that begins now; its id and its times are filled in here."""
        run = cls(directory)
        directory.mkdir(parents=True, exist_ok=True)
        run.describe(recipe, with_changes=not info.parent)
        process = dataclasses.asdict(Process.current())
        run.write(dataclasses.replace(info, id=new_id(), process=process, began=time.time()))
        return run

    def describe(self, recipe: Recipe | None, *, with_changes: bool = True) -> None:
        """Write what the run depends on beside its data: recipe, environment, changed source.

        with_changes: False where the run that this one belongs to holds the changed source.
        """
        if recipe is not None:
            write_atomically(self.directory / RECIPE, recipe.to_yaml())
        environment = yaml.safe_dump(run_environment(recipe), sort_keys=False)
        write_atomically(self.directory / ENVIRONMENT, environment)
        if with_changes and (changes := source_changes()):
            write_atomically(self.directory / CHANGES, changes)

    @property
    def path(self) -> Path:
        """run.json, or sweep.json in a sweep's folder."""
        sweep = self.directory / SWEEP_RECORD
        return sweep if sweep.is_file() else self.directory / RUN_FILE

    @property
    def exists(self) -> bool:
        """Whether a run is recorded here."""
        return self.path.is_file()

    @property
    def info(self) -> RunInfo:
        """What is recorded now; RequestError where the file is damaged or of another version."""
        return RunInfo.of(self.content())

    def content(self) -> dict[str, Any]:
        """The record as plain values."""
        remedy = "restore it from a backup, or begin anew"
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"file '{self.path}' cannot be read: {error}; {remedy}") from None
        if not isinstance(content, dict) or not content.get("id"):
            reason = "was written by rbnn-tune 0.1, which gave runs no ids of their own"
            raise RequestError(f"'{self.path}' {reason}; go on with it there, or begin anew")
        return content

    def write(self, info: RunInfo) -> None:
        """Replace the record, completely or not at all."""
        text = json.dumps(dataclasses.asdict(info), indent=1) + "\n"
        write_atomically(self.path, text)

    def update(self, **changes: Any) -> None:
        """Change some of the record."""
        self.write(dataclasses.replace(self.info, **changes))

    def resume(self) -> None:
        """Record that this process goes on with the run."""
        process = dataclasses.asdict(Process.current())
        self.update(state="running", cause="", ended=None, process=process)

    def end(self, state: State, cause: str = "") -> None:
        """Record how the run ended, unless it is recorded so already."""
        cause, info = without_secrets(cause), self.info
        if (info.state, info.cause) != (state, cause):
            self.update(state=state, cause=cause, ended=time.time())

    def add_points(self, step: int, values: Mapping[str, float]) -> None:
        """Append values that do not come by epoch, at a step of their own."""
        append_line(self.directory / POINTS, {"step": step, **values})

    @property
    def points(self) -> list[dict[str, Any]]:
        """Those values, as they were appended."""
        return read_lines(self.directory / POINTS)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Its epochs' metrics, from epoch 0 on."""
        return Journal(self.directory).rows

    @property
    def has_recipe(self) -> bool:
        return (self.directory / RECIPE).is_file()

    @property
    def recipe(self) -> Recipe:
        """What was trained; RequestError where none is recorded."""
        return load_recipe(self.directory / RECIPE)

    @property
    def environment(self) -> dict[str, Any]:
        """What it ran on; {} where none is recorded."""
        file = self.directory / ENVIRONMENT
        return yaml.load(file.read_text("utf-8"), YAML_LOADER) if file.is_file() else {}

    @property
    def mirrored(self) -> dict[str, str]:
        """store, experiment and run under which a tracker keeps its copy; {} where none does."""
        try:
            found: dict[str, str] = json.loads((self.directory / MIRROR_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    @property
    def run_id(self) -> str:
        """What people call the run by: its id in the tracker, before that its own."""
        return self.mirrored.get("run") or self.info.id

    @property
    def is_dead(self) -> bool:
        """Whether it stands as running, and its process of this machine is gone."""
        info = self.info
        if info.state != "running" or not info.process:
            return False
        process = Process(**info.process)
        return process.here and not process.alive

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it no other process is in here, where the file system has locks."""
        with (self.directory / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def new_id() -> str:
    """A random id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def run_folders(root: Path) -> list[RunFolder]:
    """The runs recorded in a folder and below it, each before those that may belong to it."""
    files = [*root.rglob(RUN_FILE), *root.rglob(SWEEP_RECORD)]
    return [RunFolder(folder) for folder in sorted({file.parent for file in files})]
