"""MLflow as a mirror of run folders: `sync` makes the store's run say what the folder says.

It may be called at any time, by any process, as often as one likes, and leaves what it left the
first time: runs are found by their own id (tag `rbnn.id`), an epoch is logged at the time that its
folder gives it, which MLflow keeps once, and the count of epochs goes into the same call.

Names that others read: tags `rbnn.kind`, `rbnn.recipe`, `rbnn.sweep`, `rbnn.trial`, `rbnn.pruned`,
`rbnn.state`, `rbnn.cause`, `rbnn.epochs`, `rbnn.data_fingerprint`; the artifacts of `artifacts_of`,
`digests.txt` and `checkpoints/`; params are the recipe's options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.files import write_atomically
from tune.run.folder import MIRROR_FILE, RunFolder, RunInfo
from tune.run.journal import digests, numbers
from tune.run.remote import version_of
from tune.tracking.address import artifact_folder, unreachable
from tune.tracking.entities import (
    CHECKPOINTS,
    END_TAGS,
    EPOCHS_TAG,
    MARK_TAG,
    NOTE_TAG,
    POINTS_TAG,
    STATE_TAG,
    Known,
    artifacts_of,
    data_inputs,
    end_tags,
    is_complete,
    mark_of,
    param_text,
    status_of,
    tags_and_params,
)
from tune.tracking.models import PERIODIC, keep_checkpoints
from tune.tracking.reader import EXPERIMENT, ID_TAG, RunReader
from tune.tracking.view import ABOUT, save_view, searched_in
from tune.uris import shown, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MAX_METRICS, MAX_PARAMS = 800, 100  # MLflow takes 1,000 values a call


class Mirror:
    """The runs of one MLflow store, made equal to their folders. Used by one thread at a time."""

    def __init__(self, reader: RunReader, *, say: Callable[[str], object] = print) -> None:
        self.reader, self.client, self.say = reader, reader.client, say
        self._known: dict[str, Known] = {}

    @classmethod
    def open(cls, uri: str = "", **options: Any) -> Mirror:
        """The mirror in the store at `uri` (default: `tracking_uri()`), as `RunReader.open`."""
        return cls(RunReader.open(uri, create=True), **options)

    def sync(self, directory: Path) -> str:
        """Bring the store's run of a folder up to date; returns MLflow's id of it.

        Raises whatever MLflow raises where the store does not answer; the next call goes on.
        """
        from mlflow.exceptions import MlflowException

        run = RunFolder(directory)
        with run.locked():
            try:
                return self._sync(run)
            except MlflowException as error:
                # Deleted in MLflow's pages since this process looked: found, and restored, anew.
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                if self._known.pop(run.info.id, None) is None:
                    raise
                return self._sync(run)

    def _sync(self, run: RunFolder) -> str:
        info = run.info
        ended = info.state != "running"
        known = self._known.get(info.id) or self._find(info)
        tags, params = dict[str, str](), dict[str, Any]()
        if known is None or (known.info != info and not is_complete(run, info, known)):
            parent = self._parent(run, info)
            tags, params = tags_and_params(run, info, parent.run_id if parent else "")
        known = known or self._create(info, tags)
        self._known[info.id] = known
        self._note_copy(run, known)
        if is_complete(run, info, known):
            return known.run_id
        if not ended and known.status != "RUNNING":
            self._resume(known)
        if info.data and not known.has_data:
            self.client.log_inputs(known.run_id, data_inputs(info.data))
            known.has_data = True
        self._files(run, info, known)
        if ended:
            tags |= end_tags(info)
        # One call holds all there is to say of most runs; what the store has is not sent again.
        for counts, metrics in [*self._new_values(run, known)] or [({}, [])]:
            self._log(known, tags | counts, params, metrics)
        known.info = info
        self._checkpoints(run, known, ended=ended)
        if ended:
            self._end(run, info, known)
        return known.run_id

    def prefetch(self) -> None:
        """Learn in a few calls what the store holds of all runs, before many are synced."""
        for run in self.reader.search(f"tags.`{ID_TAG}` LIKE '%'"):
            self._known.setdefault(run.data.tags[ID_TAG], Known.of(run))

    def lacks(self, directory: Path) -> bool:
        """Whether the store's run of a folder is missing or behind; nothing is changed."""
        run = RunFolder(directory)
        info = run.info
        known = self._known.get(info.id) or self._stored(info.id)
        return known is None or not is_complete(run, info, known)

    def _stored(self, own_id: str, *, deleted: bool = False) -> Known | None:
        """The store's run of that id, one that is not deleted before others."""
        found = self.reader.search(f"tags.`{ID_TAG}` = '{own_id}'", deleted=deleted)
        run = min(found, key=lambda each: each.info.lifecycle_stage != "active", default=None)
        return Known.of(run) if run else None

    def _find(self, info: RunInfo) -> Known | None:
        """The store's run of that id, restored where it was deleted in MLflow's pages."""
        known = self._stored(info.id, deleted=True)
        if known and self.reader.lifecycle(known.run_id) == "deleted":
            self.client.restore_run(known.run_id)
            self.say(f"MLflow run {known.run_id[:8]} ({info.name}) was deleted; it is restored")
        return known

    def _create(self, info: RunInfo, tags: dict[str, str]) -> Known:
        parent = self._known.get(info.parent)
        experiment = parent.experiment_id if parent else self._experiment()
        made = self.client.create_run(experiment, int(info.began * 1000), tags, info.name)
        return Known(made.info.run_id, experiment, tags=dict(tags))

    def _parent(self, run: RunFolder, info: RunInfo) -> Known | None:
        """The store's run of the run that this one belongs to, brought there first."""
        if info.parent in ("", info.id):
            return None
        if info.parent not in self._known:
            for folder in list(run.directory.resolve().parents)[:2]:
                other = RunFolder(folder)
                if other.exists and other.info.id == info.parent:
                    self.sync(folder)
        known = self._known.get(info.parent) or self._stored(info.parent, deleted=True)
        if known:
            self._known[info.parent] = known
        return known

    def _experiment(self) -> str:
        """The experiment of new runs, created where missing."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            folder = artifact_folder(self.reader.uri)
            location = folder.as_uri() if folder else None
            try:
                new: str = self.client.create_experiment(EXPERIMENT, location, {NOTE_TAG: ABOUT})
                return new
            except MlflowException:  # made by another process at this very moment
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            remedy = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise unreachable(self.reader.uri, f"its experiment '{EXPERIMENT}' is deleted", remedy)
        return str(found.experiment_id)

    def _log(
        self, known: Known, tags: dict[str, str], params: dict[str, Any], metrics: list[Metric]
    ) -> None:
        """Log what the store does not have yet, in one call; MLflow sets the tags last."""
        from mlflow.entities import Param, RunTag

        new = {key: value for key, value in tags.items() if known.tags.get(key) != value}
        missing = [Param(key, param_text(params[key])) for key in params.keys() - known.params]
        while len(missing) > MAX_PARAMS:
            self.client.log_batch(known.run_id, params=missing[:MAX_PARAMS])
            del missing[:MAX_PARAMS]
        if new or missing or metrics:
            entries = [RunTag(key, value) for key, value in new.items()]
            self.client.log_batch(known.run_id, metrics, missing, entries)
        known.tags |= new
        known.params |= params.keys()

    def _files(self, run: RunFolder, info: RunInfo, known: Known) -> None:
        """Copy the folder's files to the run's artifacts where they changed."""
        for name, folder in artifacts_of(info).items():
            file = run.directory / name
            if not file.is_file() or known.files.get(name) == version_of(file):
                continue
            if name == "sweep.yaml":  # the artifact names storages without their passwords
                self.client.log_text(known.run_id, without_secrets(file.read_text("utf-8")), name)
            else:
                self.client.log_artifact(known.run_id, str(file), folder or None)
            known.files[name] = version_of(file)

    def _new_values(
        self, run: RunFolder, known: Known
    ) -> Iterator[tuple[dict[str, str], list[Metric]]]:
        """`batches` of the epochs and points that the store lacks; first, the epochs' digests."""
        rows, num_epochs = run.epochs, known.count(EPOCHS_TAG)
        found = [(row["epoch"], *pair) for row in rows for pair in digests(row).items()]
        if found and len(rows) > num_epochs:
            lines = "".join(f"{epoch} {key} {digest}\n" for epoch, key, digest in found)
            self.client.log_text(known.run_id, lines, "digests.txt")
        yield from batches(rows, "epoch", EPOCHS_TAG, num_epochs)
        yield from batches(run.points, "step", POINTS_TAG, known.count(POINTS_TAG))

    def _checkpoints(self, run: RunFolder, known: Known, *, ended: bool) -> None:
        """Checkpoints as artifacts and models: periodic ones at once, the others at the end."""
        files = sorted(run.directory.glob(f"{PERIODIC}*.ckpt"))
        periodic = tuple(file.name for file in files)
        if ended:
            last_and_best = (run.directory / name for name in CHECKPOINTS)
            files = [file for file in last_and_best if file.is_file()] + files
        if files and (ended or known.files.get("periodic") != periodic):
            keep_checkpoints(self.client, known.run_id, files)
            known.files["periodic"] = periodic

    def _resume(self, known: Known) -> None:
        """Mark a run that had ended as running, and take back what its end left."""
        self.client.update_run(known.run_id, status="RUNNING")
        known.status = "RUNNING"
        for tag in END_TAGS:
            if known.tags.pop(tag, None) is not None:
                self.client.delete_tag(known.run_id, tag)

    def _end(self, run: RunFolder, info: RunInfo, known: Known) -> None:
        """Say that the store has all, and then that the run has ended."""
        if info.kind == "sweep":
            save_view(self.client, known.experiment_id, info.id, searched_in(info.params))
        scores = run.directory / "test.json"
        if scores.is_file() and run.epochs:
            row = {**run.epochs[-1], **json.loads(scores.read_text("utf-8"))}
            self._log(known, {}, {}, metrics_of(row, "epoch", "test/"))
        known.tags[MARK_TAG] = mark_of(run, info)
        self.client.set_tag(known.run_id, MARK_TAG, known.tags[MARK_TAG])
        if known.status != status_of(info):
            ended = int((info.ended or info.began) * 1000)
            self.client.set_terminated(known.run_id, status_of(info), ended)
            known.status = status_of(info)

    def _note_copy(self, run: RunFolder, known: Known) -> None:
        """Tell the folder by which id people find the run in MLflow."""
        store = shown(self.reader.uri)
        copy = {"store": store, "experiment": known.experiment_id, "run": known.run_id}
        if run.mirrored != copy:
            write_atomically(run.directory / MIRROR_FILE, json.dumps(copy))


def metrics_of(row: dict[str, Any], step: str, only: str = "") -> list[Metric]:
    """A row's numbers, those whose names begin so, at its step and time."""
    from mlflow.entities import Metric

    return [
        Metric(name, value, row["time_ms"], row[step])
        for name, value in numbers(row).items()
        if name.startswith(only)
    ]


def batches(
    rows: list[dict[str, Any]], step: str, tag: str, first: int
) -> Iterator[tuple[dict[str, str], list[Metric]]]:
    """(the count of rows done with it, as a tag, metrics) of the rows from `first` on, as many as
    one call may hold.
    """
    metrics: list[Metric] = []
    for index, row in enumerate(rows[first:], first):
        new = metrics_of(row, step)
        if metrics and len(metrics) + len(new) > MAX_METRICS:
            yield {tag: str(index)}, metrics
            metrics = []
        metrics += new
    if rows[first:]:
        yield {tag: str(len(rows))}, metrics


def end_dead(client: MlflowClient, run_id: str) -> None:
    """End a run whose process died, and whose folder nobody knows."""
    client.set_tag(run_id, STATE_TAG, "killed")
    client.set_tag(run_id, "rbnn.cause", "its process died")
    client.set_terminated(run_id, "KILLED")
