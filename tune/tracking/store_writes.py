"""Writes to the MLflow store as plain data, and what carries them out: now, later, or from a file
after the store was away.

A write is a dict of JSON values: "op" names a method of `Applier`, the rest are its arguments.
Carried out twice, it leaves what it left the first time. A run that could not be created yet has an
id of ours, which is replaced wherever it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.tracking.models import keep_checkpoints
from tune.tracking.reader import LOCAL_ID_TAG, artifact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE_TAG, EPOCHS_TAG = (
    "rbnn.state",
    "rbnn.epochs",
)  # complete, pruned, killed or failed; epochs completed
MAX_DIGEST_LENGTH = 36
SHORT_ID = 8
Write = dict[str, Any]


class Applier:
    """Carries out writes on one experiment, in the order given. ids: ids of ours -> the store's, of
    runs created late.
    """

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.ids: dict[str, str] = {}
        self._last_epoch: dict[str, int] = {}
        self._digests: dict[str, list[str]] = {}

    def apply(self, write: Write) -> None:
        """Carry one write out; raises whatever MLflow raises."""
        given = {key: self._renamed(value) for key, value in write.items() if key != "op"}
        getattr(self, write["op"])(**given)

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, str):
            for ours, theirs in self.ids.items():
                value = value.replace(ours, theirs).replace(ours[:SHORT_ID], theirs[:SHORT_ID])
            return value
        if isinstance(value, dict):
            return {key: self._renamed(each) for key, each in value.items()}
        return value

    def create_run(self, run: str, name: str, tags: Mapping[str, str], start_ms: int) -> str:
        """Create a run under the store's own id; `run`: an id of ours that it was given before, or
        "".
        """
        if run:
            found = self.client.search_runs(
                [self.experiment_id], f"tags.`{LOCAL_ID_TAG}` = '{run}'", max_results=1
            )
            if found:
                self.ids[run] = found[0].info.run_id
                return self.ids[run]
        tags = {**tags, LOCAL_ID_TAG: run} if run else dict(tags)
        run_id: str = self.client.create_run(self.experiment_id, start_ms, tags, name).info.run_id
        self._last_epoch[run_id] = -1
        self._digests[run_id] = []
        if run:
            self.ids[run] = run_id
        return run_id

    def resume(self, run: str) -> None:
        """Mark a run as RUNNING again and take back what its end left."""
        self.client.update_run(run, status="RUNNING")
        for tag in {"rbnn.cause", "rbnn.pruned", STATE_TAG} & self.client.get_run(
            run
        ).data.tags.keys():
            self.client.delete_tag(run, tag)

    def params(self, run: str, values: Mapping[str, str]) -> None:
        """Record params."""
        from mlflow.entities import Param

        self.client.log_batch(run, params=[Param(name, value) for name, value in values.items()])

    def epoch(
        self,
        run: str,
        metrics: Mapping[str, float | str],
        digests: Mapping[str, str],
        epoch: int,
        time_ms: int,
    ) -> None:
        """Record an epoch that the run does not hold yet, its digests first. Numbers that JSON
        lacks come as text.
        """
        from mlflow.entities import Metric

        if epoch <= self._logged_until(run):
            return
        if digests:
            if run not in self._digests:
                self._digests[run] = artifact_text(self.client, run, "digests.txt").splitlines()
            earlier = [line for line in self._digests[run] if int(line.split()[0]) < epoch]
            self._digests[run] = earlier + [
                f"{epoch} {key} {value}" for key, value in digests.items()
            ]
            self.client.log_text(run, "\n".join(self._digests[run]) + "\n", "digests.txt")
        self.client.log_batch(
            run,
            metrics=[Metric(key, float(value), time_ms, epoch) for key, value in metrics.items()],
        )
        self._last_epoch[run] = epoch

    def _logged_until(self, run: str) -> int:
        """The last epoch in the store, -1 for none; read once for a run that was not
        created here.
        """
        if run not in self._last_epoch:
            keys = self.client.get_run(run).data.metrics
            steps = [
                point.step for key in keys for point in self.client.get_metric_history(run, key)
            ]
            self._last_epoch[run] = max(steps, default=-1)
        return self._last_epoch[run]

    def points(self, run: str, metrics: Mapping[str, float | str], step: int, time_ms: int) -> None:
        """Record values at a step, whatever the run holds; the same values at the same time are the
        same points.
        """
        from mlflow.entities import Metric

        self.client.log_batch(
            run,
            metrics=[Metric(key, float(value), time_ms, step) for key, value in metrics.items()],
        )

    def experiment_tag(self, run: str, key: str, value: str) -> None:
        """Set a tag of the experiment (of no run)."""
        self.client.set_experiment_tag(self.experiment_id, key, value)

    def text(self, run: str, text: str, file: str) -> None:
        """Write an artifact, replacing it."""
        self.client.log_text(run, text, file)

    def artifact(self, run: str, path: str, folder: str) -> None:
        """Copy a file of this machine into an artifact folder; one that is gone by now is passed
        over.
        """
        if Path(path).is_file():
            self.client.log_artifact(run, path, folder or None)

    def checkpoints(self, run: str, files: Sequence[str]) -> None:
        """Make the store hold the run's checkpoint files that are still there."""
        keep_checkpoints(self.client, run, [Path(file) for file in files if Path(file).is_file()])

    def inputs(self, run: str, name: str, fingerprint: str, sizes: Mapping[str, int]) -> None:
        """Record the data set as inputs, one per split."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = fingerprint.rpartition(":")[2][:MAX_DIGEST_LENGTH]
        source = json.dumps({"name": name, "fingerprint": fingerprint})
        inputs = [
            DatasetInput(
                Dataset(
                    f"{name} {context}",
                    digest,
                    "local",
                    source,
                    profile=json.dumps({"num_rows": size}),
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for context, size in sizes.items()
        ]
        self.client.log_inputs(run, inputs)

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])

    def end(self, run: str, status: str, end_ms: int) -> None:
        """End a run, saying how many epochs it has."""
        if self._logged_until(run) >= 0:
            self.client.set_tag(run, EPOCHS_TAG, str(self._logged_until(run) + 1))
        self.client.set_terminated(run, status, end_ms)


def written(value: float) -> float | str:
    """A number as JSON may hold it; what is not finite as text, which float() takes back."""
    return value if math.isfinite(value) else str(value)
