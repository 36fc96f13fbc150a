"""Checkpoints in the store: one file under several names, each loadable as a model in one line, and
gone when dropped.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from rbnn.engine import LAST
from rbnn.errors import CheckpointError
from rbnn.recipe import Recipe
from rbnn.state import CheckpointWriter, TrainState, start
from tests.tune.made_runs import made_run
from tune.run.journal import Journal
from tune.tracking.mirror import Mirror
from tune.tracking.models import Unpickler, is_worth_listing, local_folder, models_of, network_of

RECIPE = Recipe(dataset="digits", epochs=4, checkpoint_every=1, keep_checkpoints=2, threads=1)


class Recorded:
    """A run whose epochs are written as `fit` writes them, without training."""

    def __init__(self, folder: Path, store: str) -> None:
        self.mirror = Mirror.open(store)
        self.client = self.mirror.client
        self.made = made_run(folder, RECIPE, tags={"rbnn.sweep": "look"})
        self.folder = self.made.directory
        self.run_id = self.mirror.sync(self.folder)
        self.run: TrainState = start(RECIPE, torch.device("cpu"))
        self.checkpoints = CheckpointWriter(self.folder, "sha256:ab")

    def epoch(self, epoch: int, top1: float) -> None:
        with torch.no_grad():
            next(self.run.model.parameters()).add_(0.01)
        metrics = {"epoch": epoch, "val/top1": top1, "lr": 0.1}
        self.run.epoch, self.run.metrics = epoch + 1, {**metrics, "time/epoch_s": 1.0}
        self.checkpoints.epoch(self.run)
        Journal(self.folder).append(metrics)
        self.sync()

    def sync(self) -> None:
        """Record it as a run that has ended, with all its checkpoints."""
        self.made.update(state="running")
        self.made.end("complete")
        self.mirror.sync(self.folder)

    def models(self) -> dict[str, Any]:
        return models_of(self.client, self.client.get_run(self.run_id))

    def artifacts(self) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(self.run_id, "checkpoints")}


@pytest.fixture(scope="module")
def recorded(
    new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    place = tmp_path_factory.mktemp("place")
    run = Recorded(place, new_store(place))
    for epoch, top1 in enumerate((10.0, 30.0, 20.0)):
        run.epoch(epoch, top1)
    return run


def test_what_is_kept_is_in_the_store_and_what_is_dropped_is_not(recorded: Recorded) -> None:
    names = {"last", "best", "epoch-0002", "epoch-0003"}
    assert {file.stem for file in recorded.folder.glob("*.ckpt")} == names
    assert recorded.artifacts() == {f"checkpoints/{name}.ckpt" for name in names}
    assert recorded.models().keys() == names
    last = recorded.models()["last"]
    assert last.name == f"{recorded.folder.name}, last (look)"
    folder = local_folder(last.artifact_location)
    assert folder is not None
    assert len([*folder.parents[1].glob("m-*")]) == len(names), "a dropped model left its folder"


def test_models_carry_their_epoch_and_its_metrics_which_the_run_holds_once(
    recorded: Recorded,
) -> None:
    found = {
        name: [(metric.key, metric.value, metric.step) for metric in model.metrics or []]
        for name, model in recorded.models().items()
    }
    assert found["best"] == found["epoch-0002"] == [("val/top1", 30.0, 1)]
    assert found["last"] == [("val/top1", 20.0, 2)]
    points = recorded.client.get_metric_history(recorded.run_id, "val/top1")
    assert [(point.step, point.value) for point in points] == [(0, 10.0), (1, 30.0), (2, 20.0)]
    tags = recorded.models()["best"].tags
    assert tags.items() >= {"rbnn.sweep": "look", "rbnn.epoch": "1"}.items()


def test_a_checkpoint_is_on_disk_and_logged_once(recorded: Recorded) -> None:
    model = local_folder(recorded.models()["last"].artifact_location)
    run = local_folder(recorded.client.get_run(recorded.run_id).info.artifact_uri)
    assert model and (model / "data" / "model.pth").samefile(recorded.folder / LAST)
    assert run and (run / "checkpoints" / LAST).samefile(recorded.folder / LAST)
    before = {name: model.model_id for name, model in recorded.models().items()}
    recorded.sync()
    assert {name: model.model_id for name, model in recorded.models().items()} == before


@pytest.mark.filterwarnings("ignore")  # of MLflow's and its dependencies' loading
def test_each_loads_in_one_line_as_a_network_and_as_a_classifier(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorded.mirror.reader.uri)
    uri = f"models:/{recorded.models()['last'].model_id}"
    network = mlflow.pytorch.load_model(uri)
    classifier = mlflow.pyfunc.load_model(uri)
    state = recorded.run.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    example = classifier.input_example
    outputs = classifier.metadata.signature.outputs.inputs
    assert example.shape == (1, 3, 32, 32) and outputs[0].shape == (-1, 10)
    images = np.repeat(np.asarray(example, dtype=np.float32), 3, axis=0)
    scores = classifier.predict(images)
    with torch.no_grad():
        assert np.array_equal(scores, network(torch.from_numpy(images)).numpy())
    assert scores.shape == (3, 10)


@pytest.mark.parametrize(
    ("kind", "state", "epochs", "file", "listed"),
    [
        ("trial", "complete", 3, "last", True),
        ("trial", "complete", 3, "best", False),  # it is the last epoch
        ("trial", "complete", 4, "best", True),
        ("trial", "pruned", 4, "last", False),
        ("train", "killed", 4, "last", True),
    ],
)
def test_what_is_worth_a_model(kind: str, state: str, epochs: int, file: str, listed: bool) -> None:
    tags = {"rbnn.kind": kind, "rbnn.state": state, "rbnn.epochs": str(epochs)}
    run: Any = SimpleNamespace(data=SimpleNamespace(tags=tags))
    assert is_worth_listing(run, Path(f"{file}.ckpt"), 3) is listed


def test_nothing_but_a_checkpoint_of_ours_opens_as_a_network() -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint with its recipe"):
        network_of({"state_dict": {}})
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        Unpickler(io.BytesIO(pickle.dumps(os.system))).load()
