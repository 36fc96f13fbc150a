"""A run's checkpoints in the store: each file an artifact, and a LoggedModel that loads in one
line.

    mlflow.pytorch.load_model("models:/MODEL_ID")      the network
    mlflow.pyfunc.load_model("models:/MODEL_ID")
        images (N, 3, S, S), normalised float32 -> class scores (N, C)

A checkpoint is on disk once: where artifacts lie in a folder, the artifact and the model's data are
further names of the run's file, which every writer replaces and none changes. Where they go to a
server, the run gets the file, the model its weights.
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import yaml

from rbnn.datasets import dataset_spec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

FOLDER = "checkpoints"
PERIODIC = "epoch-"
DIGEST_TAG = "rbnn.digest"
SCORED = ("train/", "val/")


@dataclass(frozen=True)
class Content:
    """What a checkpoint file says of itself, without its tensors. epoch: the last complete one,
    0-based; -1 for none.
    """

    recipe: dict[str, Any]
    epoch: int
    partial: bool
    metrics: dict[str, float]
    digest: str


def content_of(file: Path) -> Content | None:
    """None where the file is no checkpoint of ours."""
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ):  # whatever torch makes of a file that is not one: there is then nothing to log as a model
        return None
    if not isinstance(found, dict) or not found.get("recipe") or "digest" not in found:
        return None
    metrics = {
        key: float(value) for key, value in found["metrics"].items() if key.startswith(SCORED)
    }
    return Content(
        found["recipe"], int(found["epoch"]) - 1, bool(found.get("step")), metrics, found["digest"]
    )


def keep_checkpoints(client: MlflowClient, run_id: str, files: Sequence[Path]) -> None:
    """Make the store hold these files of the run, and drop the periodic ones that are no longer
    among them.

    A file that the store has already, by its digest, is left as it is.
    """
    run = client.get_run(run_id)
    models = models_of(client, run)
    for file in files:
        put_artifact(client, run, file)
        content = content_of(file)
        known = models.get(file.stem)
        if content is None or (known and known.tags.get(DIGEST_TAG) == content.digest):
            continue
        _log_model(client, run, file, content)
        if known:
            _drop_model(client, known)
    names = {file.name for file in files}
    for stem, model in models.items():
        if stem.startswith(PERIODIC) and f"{stem}.ckpt" not in names:
            _drop_model(client, model)
    _drop_artifacts(client, run, names)


def models_of(client: MlflowClient, run: Run) -> dict[str, LoggedModel]:
    """The run's logged models by name (last, best, epoch-0010, ...), without deleted ones."""
    from mlflow.exceptions import MlflowException

    found = {}
    for output in run.outputs.model_outputs if run.outputs else []:
        try:
            model = client.get_logged_model(output.model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            found[model.name] = model
    return found


def put_artifact(client: MlflowClient, run: Run, file: Path) -> None:
    """The file as an artifact in checkpoints/, replacing one of its name; a link where artifacts
    lie in a folder here.
    """
    from rbnn.checkpoint import link

    folder = local_folder(run.info.artifact_uri)
    if folder is None:
        client.log_artifact(run.info.run_id, str(file), FOLDER)
        return
    target = folder / FOLDER / file.name
    if target.is_file() and target.samefile(file):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link(file, target)


def local_folder(uri: str) -> Path | None:
    """The folder behind a file: address; None for a store elsewhere."""
    parts = urlsplit(uri)
    return (
        Path(unquote(parts.path) if parts.scheme else uri) if parts.scheme in ("", "file") else None
    )


def _log_model(client: MlflowClient, run: Run, file: Path, content: Content) -> None:
    """A LoggedModel of a checkpoint, with its epoch, its metrics and everything that
    loading needs.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    tags = {
        key: run.data.tags[key]
        for key in ("rbnn.sweep", "rbnn.trial", "rbnn.recipe")
        if key in run.data.tags
    }
    tags |= {
        DIGEST_TAG: content.digest,
        "rbnn.checkpoint": file.name,
        "rbnn.epoch": str(content.epoch),
    }
    params = {
        name: str(content.recipe.get(name, "")) for name in ("model", "dataset", "a32", "semantics")
    }
    model = client.create_logged_model(
        run.info.experiment_id, file.stem, run.info.run_id, tags, params, "rbnn"
    )
    folder = local_folder(model.artifact_location)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            _write_model(Path(place), file, content, model, weights_only=True)
            client.log_model_artifacts(model.model_id, place)
    else:
        _write_model(folder, file, content, model)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, max(content.epoch, 0))])
    if content.partial or content.epoch < 0:
        return
    # With the time at which the run logged them, they are the run's own points; with another they
    # would be there twice.
    points = (
        client.get_metric_history(run.info.run_id, "val/top1")
        if "val/top1" in run.data.metrics
        else []
    )
    logged_ms = [point.timestamp for point in points if point.step == content.epoch]
    if logged_ms:
        pairs = content.metrics.items()
        metrics = [
            Metric(key, value, logged_ms[0], content.epoch, model_id=model.model_id)
            for key, value in pairs
        ]
        client.log_batch(run.info.run_id, metrics=metrics)


def _write_model(
    folder: Path, file: Path, content: Content, model: LoggedModel, *, weights_only: bool = False
) -> None:
    """An MLflow model folder around the checkpoint."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    if weights_only:
        import torch

        state = torch.load(file, map_location="cpu", weights_only=True)
        torch.save(
            {key: state[key] for key in ("format", "version", "recipe", "epoch", "state_dict")},
            data / "model.pth",
        )
    else:
        from rbnn.checkpoint import link

        link(file, data / "model.pth")
    (data / "pickle_module_info.txt").write_text("tune.tracking.network_file")
    files, described = _template(content.recipe["dataset"])
    for name, text in files.items():
        (folder / name).write_text(text)
    described = {
        **described,
        "artifact_path": model.artifact_location,
        "model_id": model.model_id,
        "run_id": model.source_run_id,
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "metadata": {"epoch": content.epoch, "recipe": content.recipe},
        "model_size_bytes": file.stat().st_size,
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(described, sort_keys=False))


@functools.cache
def _template(dataset: str) -> tuple[dict[str, str], dict[str, Any]]:
    """(files by name, content of MLmodel) that the models of a data set have in common."""
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from mlflow.version import VERSION

    spec = dataset_spec(dataset)
    size, kind = spec.image_size, np.dtype(np.float32)
    ramp = [[round(2 * column / (size - 1) - 1, 2) for column in range(size)]] * size
    outputs = Schema([TensorSpec(kind, (-1, spec.num_classes))])
    inputs = Schema([TensorSpec(kind, (-1, 3, size, size))])
    requirements = [
        f"{name}=={metadata.version(name)}" for name in ("mlflow", "torch", "torchvision", "numpy")
    ]
    files = {
        "input_example.json": json.dumps([[ramp, ramp, ramp]]),
        "serving_input_example.json": json.dumps({"inputs": [[ramp, ramp, ramp]]}),
        "requirements.txt": "\n".join(
            [*requirements, "# and rbnn-tune, the project that trained it: its layers\n"]
        ),
    }
    example = {"artifact_path": "input_example.json", "type": "ndarray", "format": "tf-serving"}
    described = {
        "flavors": {
            "pytorch": {
                "model_data": "data",
                "pytorch_version": str(torch.__version__),
                "code": None,
            },
            "python_function": {
                "loader_module": "mlflow.pytorch",
                "data": "data",
                "python_version": platform.python_version(),
            },
        },
        "mlflow_version": VERSION,
        "signature": ModelSignature(inputs, outputs).to_dict(),
        "saved_input_example_info": {**example, "serving_input_path": "serving_input_example.json"},
    }
    return files, described


def _drop_model(client: MlflowClient, model: LoggedModel) -> None:
    folder = local_folder(model.artifact_location)
    if folder is None:
        _repository(client, model.artifact_location).delete_artifacts()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(
            OSError
        ):  # .../models/MODEL_ID/artifacts: what held it is empty now
            folder.parent.rmdir()
    client.delete_logged_model(model.model_id)


def _drop_artifacts(client: MlflowClient, run: Run, kept: set[str]) -> None:
    """Delete the run's periodic checkpoints that are not kept any more."""
    folder = local_folder(run.info.artifact_uri)
    if folder is not None:
        for file in (folder / FOLDER).glob(f"{PERIODIC}*.ckpt"):
            if file.name not in kept:
                file.unlink()
        return
    for entry in client.list_artifacts(run.info.run_id, FOLDER):
        name = entry.path.rpartition("/")[2]
        if name.startswith(PERIODIC) and name not in kept:
            _repository(client, run.info.artifact_uri).delete_artifacts(entry.path)


def _repository(client: MlflowClient, uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)
