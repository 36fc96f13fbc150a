"""Records runs in MLflow: one writer process, explicit run ids, never MLflow's global active run.

Names that others read: tags `rbnn.kind`, `rbnn.recipe`, `rbnn.sweep`, `rbnn.trial`, `rbnn.pruned`, `rbnn.cause` and
`rbnn.data_fingerprint`; artifacts `recipe.yaml`, `environment.yaml`, `digests.txt`, `checkpoints/`; params are
the recipe's options.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rbnn.recipe import Recipe
from tune.environment import environment
from tune.run_reader import PARENT_TAG, RunReader
from tune.store import artifact_folder, check_reachable, quiet_client, tracking_uri, unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

Kind = Literal["train", "sweep", "trial", "replay", "evaluate"]
Status = Literal["FINISHED", "FAILED", "KILLED"]

NOTE_TAG = "mlflow.note.content"
MAX_TAG_LENGTH = 5000
MAX_DIGEST_LENGTH = 36


class Tracker(RunReader):
    """Reads and writes one MLflow experiment. Meant for a single writing process; SQLite locks under several."""

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str) -> None:
        super().__init__(client, uri, experiment_id)
        self._last_epoch: dict[str, int] = {}
        self._digests: dict[str, list[str]] = {}

    @classmethod
    def open(cls, experiment: str = "rbnn", *, uri: str = "") -> Tracker:
        """The experiment of that name, created where missing, in the store at `uri` (default: `tracking_uri()`).

        Raises RequestError, one line, within seconds where the store does not answer or refuses.
        """
        uri = uri or tracking_uri()
        check_reachable(uri)
        client = quiet_client(uri)
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                folder = artifact_folder(uri)
                location = folder.as_uri() if folder else None
                return cls(client, uri, client.create_experiment(experiment, artifact_location=location))
        except (MlflowException, SQLAlchemyError) as error:
            raise unreachable(uri, error) from error
        if found.lifecycle_stage != "active":
            remedy = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise unreachable(uri, f"its experiment '{experiment}' is deleted", remedy)
        return cls(client, uri, found.experiment_id)

    def start_run(
        self,
        kind: Kind,
        name: str,
        *,
        recipe: Recipe | None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """Create a RUNNING run with its recipe and environment; returns the run id. A sweep is tagged with its own name.

        `rbnn.recipe` (the recipe's name) is the caller's to give in `tags`; without it, `name` stands there.
        """
        env = environment()
        values = {"rbnn.kind": kind, "rbnn.recipe": name if recipe else "", "mlflow.source.name": env["command"]}
        values |= {"mlflow.source.type": "LOCAL", "mlflow.user": _user(), "mlflow.source.git.commit": env["git_commit"]}
        values |= {"rbnn.sweep": name if kind == "sweep" else "", PARENT_TAG: parent or "", NOTE_TAG: description}
        values |= tags or {}
        limited = {key: str(value)[:MAX_TAG_LENGTH] for key, value in values.items() if value != ""}
        run_id: str = self.client.create_run(self.experiment_id, tags=limited, run_name=name).info.run_id
        self._last_epoch[run_id] = -1
        self._digests[run_id] = []
        if recipe is not None:
            self.log_params(run_id, recipe.to_dict())
            self.log_text(run_id, recipe.to_yaml(), "recipe.yaml")
        self.log_text(run_id, yaml.safe_dump(env, sort_keys=False), "environment.yaml")
        return run_id

    def resume_run(self, run_id: str) -> None:
        """Mark a run that ended, or whose process died, as RUNNING again; what it logged stays and is not logged twice."""
        self.client.update_run(run_id, status="RUNNING")
        for tag in ("rbnn.cause", "rbnn.pruned") & self.client.get_run(run_id).data.tags.keys():
            self.client.delete_tag(run_id, tag)

    def log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Record each value as text: a list as its items with spaces between, true and false as in a recipe file."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name, _text(value)) for name, value in values.items()])

    def log_epoch(self, run_id: str, metrics: Mapping[str, Any], epoch: int) -> None:
        """Record one epoch (0-based) in one call; an epoch that the run already holds, as after a resume, is left as it is.

        Keys that begin with `digest` hold text and become lines "epoch key value" of digests.txt; all others hold numbers.
        """
        from mlflow.entities import Metric

        if epoch <= self._logged_until(run_id):
            return
        now_ms = int(time.time() * 1000)
        numbers = {key: value for key, value in metrics.items() if not key.startswith("digest")}
        texts = [key for key, value in numbers.items() if isinstance(value, str) or value is None]
        if texts:
            raise TypeError(f"metric {texts[0]!r} is {numbers[texts[0]]!r}, not a number; name text digest...")
        lines = [f"{epoch} {key} {value}" for key, value in metrics.items() if key.startswith("digest")]
        if lines:
            if run_id not in self._digests:
                self._digests[run_id] = self._artifact_text(run_id, "digests.txt").splitlines()
            earlier = [line for line in self._digests[run_id] if int(line.split()[0]) < epoch]
            self._digests[run_id] = earlier + lines
            self.log_text(run_id, "\n".join(self._digests[run_id]) + "\n", "digests.txt")
        self.client.log_batch(run_id, metrics=[Metric(key, float(value), now_ms, epoch) for key, value in numbers.items()])
        self._last_epoch[run_id] = epoch

    def _logged_until(self, run_id: str) -> int:
        """The last epoch in the store, -1 for none; read once for a run that this process did not start."""
        if run_id not in self._last_epoch:
            keys = self.client.get_run(run_id).data.metrics
            steps = [point.step for key in keys for point in self.client.get_metric_history(run_id, key)]
            self._last_epoch[run_id] = max(steps, default=-1)
        return self._last_epoch[run_id]

    def log_checkpoints(self, run_id: str, files: Sequence[Path]) -> None:
        """Copy the files under the artifact folder checkpoints/; a file of the same name is replaced."""
        for file in files:
            self.client.log_artifact(run_id, str(file), "checkpoints")

    def log_data(self, run_id: str, name: str, fingerprint: str, sizes: Mapping[str, int]) -> None:
        """Record the data set as MLflow inputs, one per split: `sizes` maps a context (train, validation) to its images."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = fingerprint.rpartition(":")[2][:MAX_DIGEST_LENGTH]
        source = json.dumps({"name": name, "fingerprint": fingerprint})
        inputs = [
            DatasetInput(
                Dataset(f"{name} {context}", digest, "local", source, profile=json.dumps({"num_rows": size})),
                [InputTag("mlflow.data.context", context)],
            )
            for context, size in sizes.items()
        ]
        self.client.log_inputs(run_id, inputs)
        self.set_tags(run_id, {"rbnn.data_fingerprint": fingerprint})

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """Write `text` as the artifact of that name, replacing it."""
        self.client.log_text(run_id, text, artifact_file)

    def log_dict(self, run_id: str, content: Mapping[str, Any], artifact_file: str) -> None:
        """Write a mapping as a .json or .yaml artifact, by the name's ending."""
        self.client.log_dict(run_id, dict(content), artifact_file)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags, in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, str(value)[:MAX_TAG_LENGTH]) for key, value in tags.items()])

    def finish(self, run_id: str, status: Status, *, pruned: bool = False, cause: str = "") -> None:
        """End the run: FINISHED ran to its end, KILLED was stopped (always so when pruned), FAILED broke, for `cause`."""
        if pruned and status != "KILLED":
            raise ValueError(f"a pruned run ends as KILLED, not {status}")
        tags = {"rbnn.pruned": "true"} if pruned else {}
        tags |= {"rbnn.cause": cause} if cause else {}
        if tags:
            self.set_tags(run_id, tags)
        self.client.set_terminated(run_id, status)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
