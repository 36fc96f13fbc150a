"""A run's checkpoints in the store: each file an artifact, and a LoggedModel that loads in one
line.

    mlflow.pytorch.load_model("models:/MODEL_ID")      the network
    mlflow.pyfunc.load_model("models:/MODEL_ID")
        images (N, 3, S, S), normalised float32 -> class scores (N, C)

A checkpoint is on disk once: where artifacts lie in a folder, the artifact and the model's data are
further names of the run's file. Where they go to a server, the run gets the file, the model its
weights.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.datasets import dataset_spec
from rbnn.errors import CheckpointError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import Model, ModelSignature
    from torch import nn

FOLDER = "checkpoints"
PERIODIC = "epoch-"
DIGEST_TAG = "rbnn.digest"
FILE_TAG = "rbnn.checkpoint"
OF_A_SWEEP, CUT_OFF = ("trial", "confirm"), ("pruned", "killed", "failed")
FORBIDDEN = r"[/:.%\"']"  # in the name of a logged model
SCORED = ("train/", "val/")
NETWORK_OPTIONS = ("model", "dataset", "a32", "semantics")
RUN_TAGS = ("rbnn.sweep", "rbnn.trial", "rbnn.recipe")
EXAMPLE = {
    "artifact_path": "input_example.json",
    "serving_input_path": "serving_input_example.json",
    "type": "ndarray",
    "format": "tf-serving",
}
REQUIRED = ("mlflow", "torch", "torchvision", "numpy")  # and this project, for its layers
# What the tensors of a checkpoint are rebuilt by; of storages torch takes care itself.
REBUILDERS = (("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"))


class Unpickler(pickle.Unpickler):
    """What MLflow lets torch.load open a logged checkpoint with, which is a dict of tensors and
    plain values, as its network; nothing else that a file may name is executed.

    (data/pickle_module_info.txt beside the file names this module, which spares a second copy of
    the weights in another format.)
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in REBUILDERS:
            raise CheckpointError(f"the logged model names {module}.{name}; it is none of ours")
        return super().find_class(module, name)

    def load(self) -> nn.Module:
        return network_of(super().load())


def network_of(content: Any) -> nn.Module:
    """The network of a checkpoint's content, in evaluation mode; CheckpointError for others."""
    from rbnn.models import build
    from rbnn.recipe import FIELDS

    if not isinstance(content, dict) or not content.get("recipe") or "state_dict" not in content:
        remedy = "load the file with rbnn evaluate"
        raise CheckpointError(f"the logged model holds no checkpoint with its recipe; {remedy}")
    recipe = {name: content["recipe"].get(name, FIELDS[name].default) for name in NETWORK_OPTIONS}
    network = build(**{"name": recipe.pop("model"), **recipe})
    network.load_state_dict(content["state_dict"])
    return network.eval()


def content_of(file: Path) -> dict[str, Any]:
    """What a checkpoint holds; {} where the file is none of ours."""
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever torch makes of another file: nothing to log as a model
        return {}
    is_ours = isinstance(found, dict) and found.get("recipe") and "digest" in found
    return found if is_ours else {}


def keep_checkpoints(client: MlflowClient, run_id: str, files: Sequence[Path]) -> None:
    """Make the store hold these files of the run, and drop the periodic ones that are no longer
    among them. A file that the store has already, by its digest, is left as it is.
    """
    run = client.get_run(run_id)
    models = models_of(client, run)
    for file in files:
        put_artifact(client, run, file)
        content, known = content_of(file), models.get(file.stem)
        if not content or (known and known.tags.get(DIGEST_TAG) == content["digest"]):
            continue
        if not is_worth_listing(run, file, content["epoch"]):
            continue
        _log_checkpoint(client, run, file, content)
        if known:
            _drop_model(client, known)
    names = {file.name for file in files}
    for stem, model in models.items():
        if stem.startswith(PERIODIC) and f"{stem}.ckpt" not in names:
            _drop_model(client, model)
    for entry in client.list_artifacts(run_id, FOLDER):
        name = entry.path.rpartition("/")[2]
        if name.startswith(PERIODIC) and name not in names:
            _repository(client, run.info.artifact_uri).delete_artifacts(entry.path)


def is_worth_listing(run: Run, file: Path, num_epochs: int) -> bool:
    """Not of a sweep's trial that was cut off; nor a best epoch that is the last one."""
    tags = run.data.tags
    cut_off = tags.get("rbnn.kind") in OF_A_SWEEP and tags.get("rbnn.state", "") in CUT_OFF
    again = file.stem == "best" and num_epochs == int(tags.get("rbnn.epochs", 0))
    return not cut_off and not again


def models_of(client: MlflowClient, run: Run) -> dict[str, LoggedModel]:
    """The run's logged models that are not deleted by their files' names: last, epoch-0010, ..."""
    from mlflow.exceptions import MlflowException

    found = {}
    for output in run.outputs.model_outputs if run.outputs else []:
        try:
            model = client.get_logged_model(output.model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            found[Path(model.tags.get(FILE_TAG, model.name)).stem] = model
    return found


def put_artifact(client: MlflowClient, run: Run, file: Path) -> None:
    """The file as an artifact in checkpoints/: a link where artifacts lie in a folder here."""
    folder = local_folder(run.info.artifact_uri)
    if folder is None:
        client.log_artifact(run.info.run_id, str(file), FOLDER)
    else:
        _link(file, folder / FOLDER / file.name)


def _link(file: Path, target: Path) -> None:
    from rbnn.checkpoint import link

    if not (target.is_file() and target.samefile(file)):
        target.parent.mkdir(parents=True, exist_ok=True)
        link(file, target)


def local_folder(uri: str) -> Path | None:
    """The folder behind a file: address; None for a store elsewhere."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(uri)) if is_local_uri(uri) else None


@contextlib.contextmanager
def logging_model(
    client: MlflowClient, run: Run, name: str, tags: dict[str, str], epoch: int = 0, **params: str
) -> Iterator[tuple[Path, Model]]:
    """A LoggedModel of the run: within, (a folder for its files, what is to be its MLmodel)."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    about = run.info
    made = client.create_logged_model(about.experiment_id, name, about.run_id, tags, params, "rbnn")
    location, model_id = made.artifact_location, made.model_id
    described = Model(artifact_path=location, run_id=about.run_id, model_id=model_id)
    folder = local_folder(location)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place) / "model", described
            client.log_model_artifacts(model_id, f"{place}/model")
    else:
        yield folder, described
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(about.run_id, [LoggedModelOutput(model_id, epoch)])


def _log_checkpoint(client: MlflowClient, run: Run, file: Path, content: dict[str, Any]) -> None:
    """A LoggedModel of a checkpoint: epoch, metrics, and everything that loading needs."""
    from mlflow.entities import Metric

    run_id, epoch, recipe = run.info.run_id, content["epoch"] - 1, content["recipe"]
    tags = {key: run.data.tags[key] for key in RUN_TAGS if key in run.data.tags}
    tags |= {DIGEST_TAG: content["digest"], FILE_TAG: file.name, "rbnn.epoch": str(epoch)}
    params = {name: str(recipe.get(name, "")) for name in NETWORK_OPTIONS}
    sweep = f" ({tags['rbnn.sweep']})" if "rbnn.sweep" in tags else ""
    name = re.sub(FORBIDDEN, "-", f"{run.info.run_name}, {file.stem}{sweep}")
    with logging_model(client, run, name, tags, max(epoch, 0), **params) as (folder, described):
        described.metadata = {"epoch": epoch, "recipe": recipe}
        _write_model(folder, file, described)
    if content.get("step") or epoch < 0 or "val/top1" not in run.data.metrics:
        return
    # With the time at which the run logged them, they are the run's own points; with another they
    # would be there twice.
    points = client.get_metric_history(run_id, "val/top1")
    for logged_ms in [point.timestamp for point in points if point.step == epoch][:1]:
        metrics = [
            Metric(name, float(value), logged_ms, epoch, model_id=described.model_id)
            for name, value in content["metrics"].items()
            if name.startswith(SCORED)
        ]
        client.log_batch(run_id, metrics=metrics)


def _write_model(folder: Path, file: Path, described: Model) -> None:
    """An MLflow model folder around the checkpoint; where it is to travel, around its weights."""
    import torch

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    if local_folder(described.artifact_path):
        _link(file, data / "model.pth")
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
        kept = ("format", "version", "recipe", "epoch", "state_dict")
        torch.save({key: state[key] for key in kept}, data / "model.pth")
    (data / "pickle_module_info.txt").write_text(__name__)
    files, described.signature = _shared_files(described.metadata["recipe"]["dataset"])
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    described.saved_input_example_info = EXAMPLE
    described.model_size_bytes = file.stat().st_size
    torch_version, python_version = str(torch.__version__), platform.python_version()
    described.add_flavor("pytorch", model_data="data", pytorch_version=torch_version, code=None)
    classifier = {"loader_module": "mlflow.pytorch", "data": "data"}
    described.add_flavor("python_function", **classifier, python_version=python_version)
    described.save(str(folder / "MLmodel"))


@functools.cache
def _shared_files(dataset: str) -> tuple[dict[str, str], ModelSignature]:
    """(files by name, signature) that the models of a data set have in common."""
    spec = dataset_spec(dataset)
    size = spec.image_size
    image = [[[round(2 * x / (size - 1) - 1, 2) for x in range(size)]] * size] * 3
    files = {
        "input_example.json": json.dumps([image]),
        "serving_input_example.json": json.dumps({"inputs": [image]}),
        "requirements.txt": "\n".join([*requirements(), "# and rbnn-tune, which trained it\n"]),
    }
    return files, signature_of(size, spec.num_classes)


def requirements(*more: str) -> list[str]:
    """What loading takes, in the versions that are installed."""
    return [f"{name}=={metadata.version(name)}" for name in (*REQUIRED, *more)]


def signature_of(image_size: int, num_classes: int) -> ModelSignature:
    """What a classifier takes, and gives."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind, shape = np.dtype(np.float32), (-1, 3, image_size, image_size)
    inputs, outputs = TensorSpec(kind, shape), TensorSpec(kind, (-1, num_classes))
    return ModelSignature(Schema([inputs]), Schema([outputs]))


def _drop_model(client: MlflowClient, model: LoggedModel) -> None:
    folder = local_folder(model.artifact_location)
    if folder is None:
        _repository(client, model.artifact_location).delete_artifacts()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # .../models/MODEL_ID/artifacts: its folder, now empty
            folder.parent.rmdir()
    client.delete_logged_model(model.model_id)


def _repository(client: MlflowClient, uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)
