"""Finds recorded runs in MLflow: by id, by the start of an id, by sweep; and what they recorded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rbnn.errors import RequestError
from rbnn.recipe import Recipe, load_recipe
from tune.uris import shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_TAG = "mlflow.parentRunId"
LOCAL_ID_TAG = "rbnn.local_id"  # the id that a run had before the store could give it one


class RunReader:
    """The runs of one MLflow experiment, read only."""

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str) -> None:
        self.client = client
        self.uri = uri
        self.experiment_id = experiment_id

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

        A run that began while the store was away is found by the id that it was given then, too.
        """
        from mlflow.exceptions import MlflowException

        wanted = run_id_or_prefix.strip().lower()
        if not wanted or not wanted.isalnum():
            raise RequestError(
                f"run '{run_id_or_prefix}' is not a run id; give one, or its first characters, "
                "from rbnn status"
            )
        if len(wanted) == 32:
            try:
                return self.client.get_run(wanted)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        found = self._search(f"attributes.run_id LIKE '{wanted}%'") or self._search(
            f"tags.`{LOCAL_ID_TAG}` LIKE '{wanted}%'"
        )
        if len(found) == 1:
            return found[0]
        problem = (
            f"begins {len(found)} run ids; give more characters"
            if found
            else "is unknown; see rbnn status, or rbnn ui"
        )
        raise RequestError(f"run '{run_id_or_prefix}' in {shown(self.uri)} {problem}")

    def recipe_of(self, run_id: str) -> Recipe:
        """The recipe that the run recorded, loaded strictly; RequestError where it holds none."""
        text = self._artifact_text(run_id, "recipe.yaml")
        if not text:
            raise RequestError(
                f"run '{run_id}' holds no recipe.yaml; choose a run of rbnn train, sweep or replay"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(text)
            return load_recipe(path)

    def text_of(self, run_id: str, artifact_file: str) -> str:
        """The text of an artifact at the top of the run; "" where it is not there."""
        return self._artifact_text(run_id, artifact_file)

    def environment_of(self, run_id: str) -> dict[str, str]:
        """What the run ran on, as `tune.run.environment` listed it; empty where it
        recorded none.
        """
        found = yaml.safe_load(self._artifact_text(run_id, "environment.yaml") or "{}")
        return {str(key): str(value) for key, value in found.items()}

    def digests_of(self, run_id: str) -> dict[int, dict[str, str]]:
        """Epoch -> digests of the network's bits by name."""
        found: dict[int, dict[str, str]] = {}
        for line in self._artifact_text(run_id, "digests.txt").splitlines():
            epoch, key, value = line.split()
            found.setdefault(int(epoch), {})[key] = value
        return found

    def sweep_run(self, name_or_run_id: str) -> Run:
        """The parent run of a sweep, by the sweep's name (the latest of that name) or by run id;
        RequestError for none.
        """
        named = self._search(
            f"tags.`rbnn.sweep` = {quoted(name_or_run_id)} and tags.`rbnn.kind` = 'sweep'"
        )
        if named:
            return named[-1]
        known = sorted({run.info.run_name for run in self.sweeps()})
        hint = (
            f"known: {', '.join(known)}"
            if known
            else "this store holds no sweep; start one with rbnn sweep"
        )
        refusal = RequestError(f"sweep '{name_or_run_id}' in {shown(self.uri)} is unknown; {hint}")
        try:
            run = self.find_run(name_or_run_id)
        except RequestError:
            raise refusal from None
        if run.data.tags.get("rbnn.kind") != "sweep":
            raise refusal
        return run

    def trial_run(self, sweep: str, number: int) -> str:
        """The id of the run of a sweep's trial; RequestError where the store holds none."""
        named = (
            f"tags.`rbnn.sweep` = {quoted(sweep)} and tags.`rbnn.kind` = 'trial' and "
            f"tags.`rbnn.trial` = '{number}'"
        )
        found = self._search(named)
        if not found:
            raise RequestError(
                f"trial {number} of sweep '{sweep}' has no run in {shown(self.uri)}; see rbnn "
                f"doctor {sweep}"
            )
        return str(found[-1].info.run_id)

    def sweeps(self) -> list[Run]:
        """The parent runs of all sweeps, oldest first."""
        return self._search("tags.`rbnn.kind` = 'sweep'")

    def children(self, parent_run_id: str, kind: str = "trial") -> list[Run]:
        """The trials of a sweep, or its runs of another kind (confirm), in the order in which they
        started.
        """
        return self._search(
            f"tags.`{PARENT_TAG}` = {quoted(parent_run_id)} and tags.`rbnn.kind` = {quoted(kind)}"
        )

    def _search(self, filter_string: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _artifact_text(self, run_id: str, artifact_file: str) -> str:
        """The text of an artifact at the top of the run; "" where it is not there."""
        return artifact_text(self.client, run_id, artifact_file)


def artifact_text(client: MlflowClient, run_id: str, artifact_file: str) -> str:
    """The text of an artifact at the top of the run; "" where it is not there."""
    if artifact_file not in [entry.path for entry in client.list_artifacts(run_id)]:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, artifact_file, folder)).read_text()


def quoted(text: str) -> str:
    """`text` as a literal of MLflow's filter language, which has no escapes; RequestError where it
    holds both quotes.
    """
    if "'" in text and '"' in text:
        raise RequestError(f"name {text} holds both kinds of quotation marks; use one kind or none")
    return f'"{text}"' if "'" in text else f"'{text}'"
