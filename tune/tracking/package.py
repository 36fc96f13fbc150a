"""Packages and the store: a run's or a logged model's checkpoint as a file, and a package logged as
a model that serves.

    mlflow models serve -m models:/MODEL_ID --env-manager local     answers POST /invocations
    mlflow.pyfunc.load_model("models:/MODEL_ID")     images (N, 3, S, S), normalised -> class scores

The logged model names `rbnn.packed.serving` as its loader: no pickle is in it, and whoever serves
it needs rbnn alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rbnn import checkpoint
from rbnn.errors import RequestError
from rbnn.packed.weights import read_config
from tune.tracking.models import FOLDER, logging_model, requirements, signature_of
from tune.tracking.reader import RunReader

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "package"
FILE = "last.ckpt"  # what a trial is judged by is its last epoch
LOADER = "rbnn.packed.serving"


def checkpoint_of_run(reader: RunReader, run_id: str, folder: Path) -> tuple[Path, str]:
    """(a run's last checkpoint, fetched into `folder`; its whole run id); RequestError where the
    run or its checkpoint is not in the store.
    """
    from mlflow.exceptions import MlflowException

    run_id = reader.find_run(run_id).info.run_id
    try:
        path = reader.client.download_artifacts(run_id, f"{FOLDER}/{FILE}", str(folder))
    except (MlflowException, OSError):
        raise RequestError(
            f"run '{run_id}' holds no {FOLDER}/{FILE}; choose a run that ended an epoch"
        ) from None
    return Path(path), run_id


def checkpoint_of_model(client: MlflowClient, uri: str, folder: Path) -> tuple[Path, str]:
    """(the checkpoint of a logged or registered model, in `folder`; the run it is of); RequestError
    where there is none.
    """
    import mlflow
    import torch
    from mlflow.exceptions import MlflowException

    try:
        to, store = str(folder / "model"), client.tracking_uri
        at = _location(client, uri.removeprefix("models:/"))
        place = mlflow.artifacts.download_artifacts(at, dst_path=to, tracking_uri=store)
        file = Path(place) / "data" / "model.pth"
        content = torch.load(file, map_location="cpu", weights_only=True)
        described = mlflow.models.Model.load(place)
        weights, recipe, epoch = (content[key] for key in ("state_dict", "recipe", "epoch"))
    # MLflow's and torch's own, of addresses and files that are nothing of ours
    except (MlflowException, OSError, RuntimeError, KeyError, TypeError) as error:
        raise RequestError(
            f"model '{uri}' holds no checkpoint of rbnn ({str(error).splitlines()[0]}); give "
            "models:/MODEL_ID or models:/NAME/VERSION of one that rbnn logged"
        ) from None
    whole = folder / FILE
    checkpoint.save(whole, checkpoint.Checkpoint(weights, recipe, epoch))
    return whole, described.run_id or ""


def _location(client: MlflowClient, name: str) -> str:
    """Where the client's store keeps the model MODEL_ID, NAME/VERSION or NAME@ALIAS; MLflow's own
    resolver would ask the process's default store.
    """
    registered, at, alias = name.partition("@")
    if at:
        name = f"{registered}/{client.get_model_version_by_alias(registered, alias).version}"
    if "/" in name:
        return str(client.get_model_version_download_uri(*name.split("/", 1)))
    return str(client.get_logged_model(name).artifact_location)


def log_package(client: MlflowClient, run_id: str, package: Path) -> str:
    """Log a package as a model of the run; its model id."""
    import mlflow.pyfunc
    import numpy as np

    config, run = read_config(package), client.get_run(run_id)
    size = config.image_size
    with logging_model(client, run, NAME, {"rbnn.package": "1"}) as (folder, described):
        mlflow.pyfunc.save_model(
            folder,
            loader_module=LOADER,
            data_path=str(package),
            mlflow_model=described,
            signature=signature_of(size, config.num_classes),
            input_example=np.zeros((1, 3, size, size), np.float32),
            pip_requirements=requirements("safetensors"),
        )
    return str(described.model_id)
