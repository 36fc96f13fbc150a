"""Records runs in MLflow: one writer process, explicit run ids, never MLflow's global active run.

Names that others read: tags `rbnn.kind`, `rbnn.recipe`, `rbnn.sweep`, `rbnn.trial`, `rbnn.pruned`,
`rbnn.cause` and `rbnn.data_fingerprint`; artifacts `recipe.yaml`, `environment.yaml`,
`source_changes.diff` (of a changed tree), `digests.txt`, `checkpoints/`; params are the recipe's
options.
"""

from __future__ import annotations

import getpass
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.process import Process
from tune.run.environment import run_environment, source_changes
from tune.tracking.address import (
    artifact_folder,
    check_reachable,
    quiet_client,
    tracking_uri,
    unreachable,
)
from tune.tracking.describing import ABOUT, described
from tune.tracking.models import PERIODIC
from tune.tracking.reader import PARENT_TAG, RunReader
from tune.tracking.store_writes import STATE_TAG, Applier, written
from tune.tracking.write_buffer import CLOSE_PATIENCE_S, WriteBuffer, is_outage
from tune.uris import shown, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

Kind = Literal["train", "sweep", "trial", "confirm", "replay", "evaluate"]
Status = Literal["FINISHED", "FAILED", "KILLED"]

NOTE_TAG = "mlflow.note.content"
STATES: dict[Status, str] = {"FINISHED": "complete", "KILLED": "killed", "FAILED": "failed"}
MAX_TAG_LENGTH = 5000


class Tracker(RunReader):
    """Reads and writes one MLflow experiment. Meant for a single writing process; SQLite locks
    under several.

    Writes are carried out when asked for, and raise; within `buffered` a thread carries them out,
    and they never raise.
    """

    def __init__(
        self, client: MlflowClient, uri: str, experiment_id: str, experiment: str = "rbnn"
    ) -> None:
        super().__init__(client, uri, experiment_id)
        self.experiment = experiment
        self._applier = Applier(client, experiment_id)
        self._buffer: WriteBuffer | None = None

    @classmethod
    def open(cls, experiment: str = "rbnn", *, uri: str = "") -> Tracker:
        """The experiment of that name, created where missing, in the store at `uri` (default:
        `tracking_uri()`).

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
                try:
                    new_id = client.create_experiment(
                        experiment, artifact_location=location, tags={NOTE_TAG: ABOUT}
                    )
                    return cls(client, uri, new_id, experiment)
                except (
                    MlflowException
                ):  # where another process made it at this very moment, it is there now
                    found = client.get_experiment_by_name(experiment)
                    if found is None:
                        raise
        except (MlflowException, SQLAlchemyError) as error:
            raise unreachable(uri, error) from error
        if found.lifecycle_stage != "active":
            remedy = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise unreachable(uri, f"its experiment '{experiment}' is deleted", remedy)
        return cls(client, uri, found.experiment_id, experiment)

    @contextmanager
    def buffered(self, folder: Path, *, patience_s: float = CLOSE_PATIENCE_S) -> Iterator[None]:
        """Within it, writes are handed to a thread; at its end they are all in the store, or in
        `folder`/pending.jsonl.

        patience_s: how long the end waits for a store that does not answer. Reads may precede
        writes: `flush` first. A block inside another one uses the outer one's thread.
        """
        if self._buffer:
            yield
            return
        header = {
            "store": shown(self.uri),
            "experiment": self.experiment,
            "process": str(Process.current()),
        }
        self._buffer = WriteBuffer(self._applier, folder, header, self._answers)
        try:
            yield
        finally:
            buffer, self._buffer = self._buffer, None
            buffer.close(patience_s)

    def flush(self, timeout_s: float = CLOSE_PATIENCE_S) -> bool:
        """Wait until everything written so far is in the store; False where it is not after
        `timeout_s`.
        """
        return self._buffer is None or self._buffer.flush(timeout_s)

    def _answers(self) -> bool:
        try:
            check_reachable(self.uri)
        except RequestError:
            return False
        return True

    def _write(self, op: str, run: str, **given: Any) -> None:
        write = {"op": op, "run": run, **given}
        if self._buffer:
            self._buffer.put(write)
        else:
            self._applier.apply(write)

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
        """Create a RUNNING run with its recipe and environment; returns the run id. A sweep is
        tagged with its own name.

        Without a description, the run's page says what its recipe is. `rbnn.recipe` (the recipe's
        name) is the caller's to give in `tags`; without it, `name` stands there.
        """
        env = run_environment(recipe)
        if recipe and not description:
            description = described(kind, recipe, (tags or {}).get("rbnn.recipe", name))
        values = {
            "rbnn.kind": kind,
            "rbnn.recipe": name if recipe else "",
            "mlflow.source.name": env["command"],
        }
        values |= {
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
            "mlflow.source.git.commit": env["git_commit"],
        }
        values |= {
            "rbnn.sweep": name if kind == "sweep" else "",
            PARENT_TAG: parent or "",
            NOTE_TAG: description,
        }
        values |= {
            "rbnn.seed": str(recipe.seed) if recipe else "",
            "rbnn.process": str(Process.current()),
            **(tags or {}),
        }
        run_id = self._create_run(
            name, {key: str(value)[:MAX_TAG_LENGTH] for key, value in values.items() if value != ""}
        )
        if recipe is not None:
            self.log_params(run_id, recipe.to_dict())
            self.log_text(run_id, recipe.to_yaml(), "recipe.yaml")
        self.log_text(run_id, yaml.safe_dump(env, sort_keys=False), "environment.yaml")
        if source_changes():
            self.log_text(run_id, source_changes(), "source_changes.diff")
        return run_id

    def _create_run(self, name: str, tags: dict[str, str]) -> str:
        """The new run's id; one of ours, which the store's will replace, where the store is away
        and writes are buffered.
        """
        began = _now_ms()
        if self._buffer is None:
            return self._applier.create_run("", name, tags, began)
        if (
            not self._buffer.away and self._answers()
        ):  # asked first, as the client itself tries for long
            try:
                return self._applier.create_run("", name, tags, began)
            except Exception as error:
                if not is_outage(error):
                    raise
        ours = uuid.uuid4().hex
        self._buffer.put(
            {"op": "create_run", "run": ours, "name": name, "tags": tags, "start_ms": began}
        )
        return ours

    def resume_run(self, run_id: str) -> None:
        """Mark a run that ended, or whose process died, as RUNNING again; what it logged stays and
        is not logged twice.
        """
        self._write("resume", run_id)
        self.set_tags(run_id, {"rbnn.process": str(Process.current())})

    def log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Record each value as text: a list as its items with spaces between, true and false as in
        a recipe file.
        """
        self._write("params", run_id, values={name: _text(value) for name, value in values.items()})

    def log_epoch(self, run_id: str, metrics: Mapping[str, Any], epoch: int) -> None:
        """Record one epoch (0-based) in one call; an epoch that the run already holds, as after a
        resume, is left as it is.

        Keys that begin with `digest` hold text and become lines "epoch key value" of digests.txt;
        all others hold numbers.
        """
        numbers = {key: value for key, value in metrics.items() if not key.startswith("digest")}
        texts = [key for key, value in numbers.items() if isinstance(value, str) or value is None]
        if texts:
            raise TypeError(
                f"metric {texts[0]!r} is {numbers[texts[0]]!r}, not a number; name text digest..."
            )
        digests = {key: str(value) for key, value in metrics.items() if key.startswith("digest")}
        values = {key: written(float(value)) for key, value in numbers.items()}
        self._write(
            "epoch", run_id, metrics=values, digests=digests, epoch=epoch, time_ms=_now_ms()
        )

    def log_points(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Record values that do not come by epoch, such as a sweep's best by trial number."""
        values = {key: written(float(value)) for key, value in metrics.items()}
        self._write("points", run_id, metrics=values, step=step, time_ms=_now_ms())

    def log_checkpoints(self, run_id: str, files: Sequence[Path]) -> None:
        """Keep these files, and the periodic checkpoints beside them, as artifacts in checkpoints/
        and as LoggedModels.

        Files of the same name are replaced; periodic ones that are no longer there are dropped from
        the store as well.
        """
        folders = dict.fromkeys(file.parent for file in files)
        beside = [file for folder in folders for file in sorted(folder.glob(f"{PERIODIC}*.ckpt"))]
        self._write(
            "checkpoints",
            run_id,
            files=[str(file.resolve()) for file in dict.fromkeys([*files, *beside])],
        )

    def log_artifact(self, run_id: str, file: Path, folder: str = "") -> None:
        """Copy a file to the run's artifacts."""
        self._write("artifact", run_id, path=str(file.resolve()), folder=folder)

    def log_data(self, run_id: str, name: str, fingerprint: str, sizes: Mapping[str, int]) -> None:
        """Record the data set as MLflow inputs, one per split: `sizes` maps a context (train,
        validation) to its images.
        """
        self._write("inputs", run_id, name=name, fingerprint=fingerprint, sizes=dict(sizes))
        self.set_tags(run_id, {"rbnn.data_fingerprint": fingerprint})

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """Write `text` as the artifact of that name, replacing it."""
        self._write("text", run_id, text=text, file=artifact_file)

    def log_dict(self, run_id: str, content: Mapping[str, Any], artifact_file: str) -> None:
        """Write a mapping as a .json or .yaml artifact, by the name's ending."""
        as_json = artifact_file.endswith(".json")
        text = (
            json.dumps(content, indent=2)
            if as_json
            else yaml.safe_dump(dict(content), sort_keys=False)
        )
        self.log_text(run_id, text, artifact_file)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags, in one call."""
        self._write(
            "tags", run_id, tags={key: str(value)[:MAX_TAG_LENGTH] for key, value in tags.items()}
        )

    def tag_experiment(self, key: str, value: str) -> None:
        """Set or replace a tag of the experiment."""
        self._write("experiment_tag", "", key=key, value=value)

    def finish(self, run_id: str, status: Status, *, pruned: bool = False, cause: str = "") -> None:
        """End the run: FINISHED ran to its end, KILLED was stopped (always so when pruned), FAILED
        broke, for `cause`.
        """
        if pruned and status != "KILLED":
            raise ValueError(f"a pruned run ends as KILLED, not {status}")
        tags = {
            STATE_TAG: "pruned" if pruned else STATES[status],
            **({"rbnn.pruned": "true"} if pruned else {}),
        }
        tags |= {"rbnn.cause": without_secrets(cause)} if cause else {}
        self.set_tags(run_id, tags)
        self._write("end", run_id, status=status, end_ms=_now_ms())


def _now_ms() -> int:
    return int(time.time() * 1000)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
