"""Finds recorded runs in MLflow: by id, by the start of an id, by sweep; and what they recorded."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rbnn.errors import RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe
from tune.run.record import Epoch, RunRecord
from tune.tracking.address import PATIENCE_S, opened, tracking_uri
from tune.tracking.view import run_page
from tune.uris import shown, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_TAG = "mlflow.parentRunId"
ID_TAG = "rbnn.id"  # the id that a run has in its own folder
EXPERIMENT = "rbnn"
ID_LENGTH = 32
PAGE = 1000


class RunReader:
    """The runs of an MLflow store, whichever experiment they are in by now; read only."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client = client
        self.uri = uri

    @classmethod
    def open(cls, uri: str = "", *, create: bool = False) -> RunReader:
        """The store at `uri` (default: `tracking_uri()`); create: also where its file is missing.

        Raises RequestError, one line, within seconds where it does not answer or refuses.
        """
        uri = uri or tracking_uri()
        path = sqlite_path(uri)
        if path and not create and not path.is_file():
            raise RequestError(f"nothing is recorded in {shown(uri)} yet; there is no such file")
        return cls(opened(uri, PATIENCE_S)[0], uri)

    @property
    def experiment_ids(self) -> list[str]:
        """The experiments that runs may be in; asked anew, as another process may make one."""
        return [each.experiment_id for each in self.client.search_experiments()]

    def lifecycle(self, run_id: str) -> str:
        """`active`, `deleted`, or "" where the store does not hold the run."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise

    def find_run(self, run_id_or_prefix: str) -> Run:
        """The run of that id, or the only one whose id begins so; RequestError for none or several.

        An id may be MLflow's, or the one that the run has in its own folder.
        """
        wanted, named = run_id_or_prefix.strip().lower(), f"run '{run_id_or_prefix}'"
        if not wanted or not wanted.isalnum():
            remedy = "give one, or its first characters, from rbnn status"
            raise RequestError(f"{named} is not a run id; {remedy}")
        if len(wanted) == ID_LENGTH and self.lifecycle(wanted):
            return self.client.get_run(wanted)
        found = self.search(f"attributes.run_id LIKE '{wanted}%'")
        found = found or self.search(f"tags.`{ID_TAG}` LIKE '{wanted}%'")
        if len(found) == 1:
            return found[0]
        problem = "is unknown; see rbnn status, or rbnn ui"
        if found:
            problem = f"begins {len(found)} run ids; give more characters"
        raise RequestError(f"{named} in {shown(self.uri)} {problem}")

    def recipe_of(self, run_id: str) -> Recipe:
        """The recipe that the run recorded, loaded strictly; RequestError where it holds none."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "recipe.yaml"
            file.write_text(self.text_of(run_id, file.name), "utf-8")
            if not file.stat().st_size:
                problem = f"run '{run_id}' holds no recipe.yaml"
                raise RequestError(f"{problem}; choose a run of rbnn train, sweep or replay")
            return load_recipe(file)

    def text_of(self, run_id: str, artifact_file: str) -> str:
        """The text of an artifact at the top of the run; "" where it is not there."""
        if artifact_file not in [entry.path for entry in self.client.list_artifacts(run_id)]:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(run_id, artifact_file, folder)
            return Path(path).read_text("utf-8")

    def environment_of(self, run_id: str) -> dict[str, str]:
        """What the run ran on (see `tune.run.environment`); empty where it recorded none."""
        found = yaml.safe_load(self.text_of(run_id, "environment.yaml") or "{}")
        return {str(key): str(value) for key, value in found.items()}

    def points(self, run_id: str, metric: str) -> dict[int, float]:
        """Epoch -> value of a metric."""
        found = self.client.get_metric_history(run_id, metric)
        return {point.step: _read(point.value) for point in found}

    def digests_of(self, run_id: str) -> dict[int, dict[str, str]]:
        """Epoch -> digests of the network's bits by name."""
        found: dict[int, dict[str, str]] = {}
        for line in self.text_of(run_id, "digests.txt").splitlines():
            epoch, key, value = line.split()
            found.setdefault(int(epoch), {})[key] = value
        return found

    def sweep_run(self, name_or_run_id: str) -> Run:
        """A sweep's run, by name (the latest of that name) or run id; RequestError for none."""
        sweeps = self.sweeps()
        for run in reversed(sweeps):
            if run.data.tags.get("rbnn.sweep") == name_or_run_id:
                return run
        with contextlib.suppress(RequestError):
            run = self.find_run(name_or_run_id)
            if run.data.tags.get("rbnn.kind") == "sweep":
                return run
        known = ", ".join(sorted({run.info.run_name for run in sweeps}))
        hint = f"known: {known}" if known else "this store holds no sweep; start one: rbnn sweep"
        raise RequestError(f"sweep '{name_or_run_id}' in {shown(self.uri)} is unknown; {hint}")

    def sweeps(self) -> list[Run]:
        """The parent runs of all sweeps, oldest first."""
        return self.search("tags.`rbnn.kind` = 'sweep'")

    def children(self, parent_run_id: str, kind: str = "trial") -> list[Run]:
        """A sweep's trials, or runs of another kind, in the order in which they started."""
        of_kind = f"tags.`rbnn.kind` = {quoted(kind)}"
        return self.search(f"tags.`{PARENT_TAG}` = {quoted(parent_run_id)} and {of_kind}")

    def search(self, filter_string: str, *, deleted: bool = False) -> list[Run]:
        """The runs that a filter holds of, the oldest first; deleted ones only on request."""
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        order = ["attributes.start_time ASC"]
        found: list[Run] = []
        token = None
        while token != "":
            where = self.experiment_ids
            page = self.client.search_runs(where, filter_string, view, PAGE, order, token)
            found += page
            token = page.token or ""
        return found

    def record_of(self, run_id: str) -> RunRecord:
        """The record of a run in the store; RequestError where it recorded no recipe."""
        run = self.find_run(run_id)
        run_id = run.info.run_id
        recipe = self.recipe_of(run_id).to_dict()
        metrics: dict[int, dict[str, float]] = {}
        for key in sorted(run.data.metrics):
            for epoch, value in self.points(run_id, key).items():
                metrics.setdefault(epoch, {})[key] = value
        digests = self.digests_of(run_id)
        steps = sorted(metrics.keys() | digests.keys())
        epochs = [Epoch(step, digests.get(step, {}), metrics.get(step, {})) for step in steps]
        name, sizes = "", {}
        for entry in run.inputs.dataset_inputs if run.inputs else []:
            name = json.loads(entry.dataset.source).get("name", "")
            sizes[entry.tags[0].value] = int(json.loads(entry.dataset.profile)["num_rows"])
        tags = run.data.tags
        fingerprint = tags.get("rbnn.data_fingerprint", "")
        return RunRecord(
            run_id=run_id,
            name=run.info.run_name,
            kind=tags.get("rbnn.kind", ""),
            status=run.info.status,
            recipe_name=tags.get("rbnn.recipe", ""),
            recipe={name: recipe[name] for name in FIELDS},
            environment=self.environment_of(run_id),
            data={"name": name, "fingerprint": fingerprint, "sizes": sizes},
            epochs=epochs,
            page=run_page(run.info.experiment_id, run_id),
        )


def existing_reader() -> RunReader | None:
    """The store where runs are recorded, None where it is a file that is not there yet."""
    uri = tracking_uri()
    path = sqlite_path(uri)
    return None if path and not path.is_file() else RunReader.open(uri)


def quoted(text: str) -> str:
    """`text` in MLflow's filters, which have no escapes; RequestError where it has both quotes."""
    if "'" in text and '"' in text:
        raise RequestError(f"name {text} holds both kinds of quotation marks; use one kind or none")
    return f'"{text}"' if "'" in text else f"'{text}'"


def _read(value: float) -> float:
    """MLflow stores an infinite value as the largest finite one."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value
