"""What a run's folder holds, as MLflow's entities: metrics, inputs, states, and a mark that tells
whether the store has all of it.
"""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tune.run.folder import ENVIRONMENT, RECIPE, RunFolder, RunInfo, State
from tune.run.journal import epoch_metrics
from tune.tracking.models import PERIODIC

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

NOTE_TAG = "mlflow.note.content"
EPOCHS_TAG, POINTS_TAG, STATE_TAG = "rbnn.epochs", "rbnn.points", "rbnn.state"
MARK_TAG = "rbnn.mirrored"  # what of the folder the store held when it was last brought up to date
STATUS: dict[State, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "finished": "FINISHED",
    "failed": "FAILED",
}  # pruned, killed, stopped, died: KILLED
RUN_STATES = {"finished": "complete", "stopped": "killed", "died": "killed"}  # of a sweep's run
MAX_TAG_LENGTH, MAX_METRICS, MAX_PARAMS = 5000, 1000, 100
ALWAYS = (RECIPE, ENVIRONMENT, "source_changes.diff", "sweep.yaml")
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
    num_epochs: int = 0
    num_points: int = 0
    files: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    info: RunInfo | None = None

    @classmethod
    def of(cls, run: Run) -> Known:
        """What MLflow says of a run."""
        tags = run.data.tags
        return cls(
            run.info.run_id,
            run.info.experiment_id,
            run.info.status,
            dict(tags),
            set(run.data.params),
            bool(run.inputs and run.inputs.dataset_inputs),
            int(tags.get(EPOCHS_TAG, 0)),
            int(tags.get(POINTS_TAG, 0)),
        )


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
    names = (*ALWAYS, *AT_THE_END, *REPORTS, *CHECKPOINTS, "metrics.jsonl", "points.jsonl")
    found = [json.dumps(dataclasses.asdict(info), sort_keys=True)]
    for name in (*names, *(file.name for file in run.directory.glob(f"{PERIODIC}*.ckpt"))):
        file = run.directory / name
        if file.is_file():
            found.append(f"{name} {file.stat().st_size} {file.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def batches(rows: list[dict[str, Any]], first: int, key: str) -> Iterator[tuple[int, list[Metric]]]:
    """(rows done with it, metrics) of the rows from `first` on, as many as one call may hold."""
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for index, row in enumerate(rows[first:], first):
        values = epoch_metrics(row) if key == "epoch" else row
        new = [
            Metric(name, float(value), row["time_ms"], row[key])
            for name, value in values.items()
            if name not in (key, "time_ms") and not name.startswith("digest")
        ]
        if metrics and len(metrics) + len(new) > MAX_METRICS:
            yield index, metrics
            metrics = []
        metrics += new
    if rows[first:]:
        yield len(rows), metrics


def test_scores(run: RunFolder) -> list[Metric]:
    """The test set's scores of a run that confirms a setting, at its last epoch."""
    from mlflow.entities import Metric

    file, epochs = run.directory / "test.json", run.epochs
    if not file.is_file() or not epochs:
        return []
    last = epochs[-1]
    values = json.loads(file.read_text())
    return [Metric(key, value, last["time_ms"], last["epoch"]) for key, value in values.items()]


def data_inputs(data: dict[str, Any]) -> list[Any]:
    """A data set (name, fingerprint, sizes) as MLflow inputs, one per split."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, fingerprint = data["name"], data["fingerprint"]
    digest = fingerprint.rpartition(":")[2][:36]  # no longer one is taken
    source = json.dumps({"name": name, "fingerprint": fingerprint})
    return [
        DatasetInput(
            Dataset(
                f"{name} {split}", digest, "local", source, None, json.dumps({"num_rows": size})
            ),
            [InputTag("mlflow.data.context", split)],
        )
        for split, size in data["sizes"].items()
    ]


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
