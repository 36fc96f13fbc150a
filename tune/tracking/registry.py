"""The model registry: a sweep's confirmed winner as a version of rbnn-<dataset>-<model>; the best
of them is its `champion`.

mlflow.pytorch.load_model("models:/rbnn-cifar10-resnet20_1w1a@champion") then is the best network
that is known.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from rbnn.recipe import Recipe, documented_accuracies
from tune.tracking.models import models_of
from tune.tracking.reader import RunReader

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from tune.sweep.summary import Winner

ALIAS = "champion"
SCORE_TAG, MEASURE_TAG = "rbnn.confirmed_top1", "rbnn.confirmed_on"
CHECKPOINT = "last"  # what a trial is judged by is its last epoch


@dataclass(frozen=True)
class Candidate:
    """A confirmed network. scores: top-1 (percent) by fresh seed, on `measure`: test/top1, or
    val/top1 without a test set.
    """

    run_id: str
    recipe: Recipe
    sweep: str
    measure: str
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def model_name(self) -> str:
        return f"rbnn-{self.recipe.dataset}-{self.recipe.model}"


@dataclass(frozen=True)
class Registration:
    """What came of it. version: the registered one, "" for none; text: why, in one line."""

    champion: bool
    version: str
    text: str


def candidate_of(winner: Winner, sweep: str, reader: RunReader) -> Candidate:
    """The winner of a sweep; RequestError where it is not confirmed or not in the store."""
    setting = winner.setting
    if setting is None or not setting.scores:
        raise RequestError(
            f"the winner of sweep '{sweep}' is not confirmed, and only a confirmed one is "
            f"registered; confirm it: rbnn resume {sweep} --confirm_seeds 3"
        )
    measure = "test/top1" if setting.test else "val/top1"
    run_id = reader.find_run(winner.row.run_id).info.run_id
    return Candidate(run_id, winner.recipe, sweep, measure, tuple(setting.scores))


def register_champion(reader: RunReader, candidate: Candidate) -> Registration:
    """Register a confirmed network as champion, unless the present one is as good or unlike."""
    name, measure = candidate.model_name, candidate.measure
    present, over = champion_of(reader, name), ""
    if present is not None:
        held = f"{name} version {present.version}"
        if present.run_id == candidate.run_id:
            return Registration(True, "", f"{held} is this network already, and {ALIAS}")
        known_by, score = present.tags.get(MEASURE_TAG, ""), present.tags.get(SCORE_TAG, "nan")
        why = ""
        if known_by != measure:
            why = f"it is known by {known_by}, this one by {measure}"
        elif not candidate.mean > float(score):
            figures = f"{float(score):.2f} % against {candidate.mean:.2f} %"
            why = f"{measure} {figures} over fresh seeds"
        if why:
            return Registration(False, "", f"{held} stays {ALIAS}: {why}")
        over = f", in place of version {present.version}"
    version = _register(reader, candidate)
    reader.client.set_registered_model_alias(name, ALIAS, version)
    text = f"{name} version {version} is {ALIAS}{over}: {measure} {candidate.mean:.2f} %"
    return Registration(True, version, f"{text} over fresh seeds")


def champion_of(reader: RunReader, name: str) -> ModelVersion | None:
    """The version that is champion, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return reader.client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    return None


def _register(reader: RunReader, candidate: Candidate) -> str:
    """A new version with its scores, its recipe and the documented figure; its number."""
    from mlflow.exceptions import MlflowException

    client, name = reader.client, candidate.model_name
    run = client.get_run(candidate.run_id)
    model = models_of(client, run).get(CHECKPOINT)
    if model is None:
        problem = f"run '{candidate.run_id}' holds no logged model '{CHECKPOINT}'"
        raise RequestError(f"{problem}; see rbnn doctor")
    recipe = candidate.recipe
    try:
        about = f"{recipe.model} on {recipe.dataset}, of rbnn-tune."
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Where exactly one recipe states a figure of this network on this data set.
    documented = documented_accuracies().get(f"{recipe.dataset}_{recipe.model}", {}).get("top1")
    tags = {
        SCORE_TAG: repr(candidate.mean),
        MEASURE_TAG: candidate.measure,
        "rbnn.seeds": str(len(candidate.scores)),
        "rbnn.sweep": candidate.sweep,
        "val/top1": repr(run.data.metrics.get("val/top1", float("nan"))),
    }
    scores = ", ".join(f"{score:.2f}" for score in candidate.scores)
    text = (
        f"Winner of sweep `{candidate.sweep}`: {candidate.measure} **{candidate.mean:.2f} %** "
        f"over {len(candidate.scores)} fresh seeds ({scores}).\n\n"
    )
    if documented is not None:
        tags["rbnn.documented_top1"] = f"{documented:g}"
        text += f"The documented figure of this network is {documented:g} %.\n\n"
    text += f"```yaml\n{recipe.to_yaml()}```"
    about_it: dict[str, Any] = {"tags": tags, "description": text, "model_id": model.model_id}
    source = model.artifact_location
    version = client.create_model_version(name, source, candidate.run_id, **about_it)
    return str(version.version)
