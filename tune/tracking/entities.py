"""What a run's folder holds, as MLflow's entities, and a mark of what the store has of it."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tune.process import Process
from tune.run.folder import CHANGES, ENVIRONMENT, POINTS, RECIPE, RunFolder, RunInfo, State
from tune.run.journal import JOURNAL
from tune.tracking.models import PERIODIC
from tune.tracking.reader import ID_TAG, PARENT_TAG
from tune.tracking.view import COLOUR_TAG, colour_of, described

if TYPE_CHECKING:
    from mlflow.entities import Run

NOTE_TAG = "mlflow.note.content"
EPOCHS_TAG, POINTS_TAG, STATE_TAG = "rbnn.epochs", "rbnn.points", "rbnn.state"
MARK_TAG = "rbnn.mirrored"  # what of the folder the store held when it was last brought up to date
END_TAGS = (STATE_TAG, MARK_TAG, "rbnn.cause", "rbnn.pruned")
STATUS: dict[State, str] = {  # pruned, killed, stopped, died: KILLED
    "running": "RUNNING",
    "complete": "FINISHED",
    "finished": "FINISHED",
    "failed": "FAILED",
}
RUN_STATES = {"finished": "complete", "stopped": "killed", "died": "killed"}  # of a sweep's run
MAX_TAG_LENGTH = 5000
ALWAYS = (RECIPE, ENVIRONMENT, CHANGES, "sweep.yaml")
AT_THE_END = ("verdict.json", "diagnostics.csv", "diagnostics.png")
REPORTS = ("report.html", "report.png", "trials.csv")
CHECKPOINTS = ("last.ckpt", "best.ckpt")


@dataclass
class Known:
    """What the store holds of a run, as far as this process knows. info: what was mirrored last."""

    run_id: str
    experiment_id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    has_data: bool = False
    files: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    info: RunInfo | None = None

    @classmethod
    def of(cls, run: Run) -> Known:
        """What MLflow says of a run."""
        about, tags, params = run.info, run.data.tags, set(run.data.params)
        has_data = bool(run.inputs and run.inputs.dataset_inputs)
        return cls(about.run_id, about.experiment_id, about.status, tags, params, has_data)

    def count(self, tag: str) -> int:
        """How many epochs, or points, the store has."""
        return int(self.tags.get(tag, 0))


def is_complete(run: RunFolder, info: RunInfo, known: Known) -> bool:
    """Whether the store has all of a run's folder; never so of one that runs."""
    if info.state == "running" or known.status != status_of(info):
        return False
    return known.tags.get(MARK_TAG) == mark_of(run, info)


def status_of(info: RunInfo) -> str:
    """MLflow's status of a run in that state."""
    return STATUS.get(info.state, "KILLED")


def mark_of(run: RunFolder, info: RunInfo) -> str:
    """A short text that changes with whatever of an ended run is mirrored."""
    names = (*ALWAYS, *AT_THE_END, *REPORTS, *CHECKPOINTS, JOURNAL, POINTS)
    periodic = run.directory.glob(f"{PERIODIC}*.ckpt")
    found = [json.dumps(dataclasses.asdict(info), sort_keys=True)]
    for file in (*(run.directory / name for name in names), *sorted(periodic)):
        if file.is_file():
            found.append(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def artifacts_of(info: RunInfo) -> dict[str, str]:
    """The files of a run's folder that are artifacts now -> the folder among the artifacts."""
    names = dict.fromkeys(ALWAYS, "")
    if info.state != "running":
        names |= dict.fromkeys(AT_THE_END, "")
    if info.kind == "sweep":
        names |= dict.fromkeys(REPORTS, "report")
    return names


def end_tags(info: RunInfo) -> dict[str, str]:
    """How a run ended, as tags."""
    tags = {STATE_TAG: RUN_STATES.get(info.state, info.state)}
    if info.state == "pruned":
        tags["rbnn.pruned"] = "true"
    if info.cause:
        tags["rbnn.cause"] = info.cause[:MAX_TAG_LENGTH]
    return tags


def data_inputs(data: dict[str, Any]) -> list[Any]:
    """A data set (name, fingerprint, sizes) as MLflow inputs, one per split."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, fingerprint = data["name"], data["fingerprint"]
    digest = fingerprint.rpartition(":")[2][:36]  # no longer one is taken
    source = json.dumps({"name": name, "fingerprint": fingerprint})
    inputs = []
    for split, size in data["sizes"].items():
        profile = json.dumps({"num_rows": size})
        dataset = Dataset(f"{name} {split}", digest, "local", source, profile=profile)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", split)]))
    return inputs


def tags_and_params(
    run: RunFolder, info: RunInfo, parent_run_id: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """What a run is, as tags and params; not how far it is."""
    environment, recipe = run.environment, run.recipe if run.has_recipe else None
    note = info.description
    if recipe and not note:
        note = described(info.kind, recipe, info.tags.get("rbnn.recipe", info.name))
    number = info.tags.get("rbnn.trial", "")
    tags = {
        ID_TAG: info.id,
        COLOUR_TAG: colour_of(int(number)) if number else "",
        "rbnn.kind": info.kind,
        "rbnn.seed": str(recipe.seed) if recipe else "",
        "rbnn.process": str(Process(**info.process)) if info.process else "",
        "rbnn.data_fingerprint": info.data.get("fingerprint", ""),
        PARENT_TAG: parent_run_id,
        NOTE_TAG: note,
        "mlflow.source.name": environment.get("command", ""),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.get("git_commit", ""),
        "mlflow.user": user_name(),
        **info.tags,
    }
    tags = {key: str(value)[:MAX_TAG_LENGTH] for key, value in tags.items() if value != ""}
    return tags, info.params | (recipe.to_dict() if recipe else {})


def param_text(value: Any) -> str:
    """As a recipe file has it: true and false, a list as its items with spaces between."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
