"""Every model, and every loader with every data set: a short epoch, trained, validated and kept."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from rbnn import checkpoint
from rbnn.data import LOADERS, cifar, digits, folders, open_loaders
from rbnn.data.source import Source, Split
from rbnn.datasets import DATASETS
from rbnn.diagnostics import read_rows
from rbnn.engine import LAST, evaluate, fit
from rbnn.layers import rotated_layers
from rbnn.models import MODELS, build
from rbnn.recipe import Recipe
from tests.rbnn.small import CPU, how, needs_dali

pytestmark = pytest.mark.usefixtures("settings_put_back")

# The first of its size on every data set with every loader, the others on one.
FIRST = {size: model for model, size in reversed(MODELS)}
MATRIX = {
    (FIRST[spec.image_size], dataset, loader)
    for dataset, spec in DATASETS.items()
    for loader in LOADERS
    if loader != "resident" or spec.in_memory
}
MATRIX |= {
    (model, {32: "cifar10", 224: "tinyimagenet"}[size], "torchvision") for model, size in MODELS
}
NUM_TRAIN, NUM_VAL = 6, 3


def first(source: Source) -> Source:
    """The first images of each split, every class being kept in the list of classes."""
    train, val = source.train.subset(np.arange(NUM_TRAIN)), source.val.subset(np.arange(NUM_VAL))
    return dataclasses.replace(source, train=train, val=val)


def random_images(num_classes: int) -> Source:
    """What CIFAR's files hold, made up: nothing is downloaded for tests."""
    rng, splits = np.random.default_rng(7), []
    for num in (NUM_TRAIN, NUM_VAL):
        images = rng.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8)
        splits.append(Split(images, rng.integers(0, num_classes, num)))
    return Source(*splits, tuple(map(str, range(num_classes))), "sha256:random")


@pytest.fixture
def data_path(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> Path:
    """The folder of a few images of the data set."""
    few, scan = first(digits.read()), folders.scan
    cifars = {name: random_images(DATASETS[name].num_classes) for name in ("cifar10", "cifar100")}
    monkeypatch.setattr(digits, "read", lambda: few)
    monkeypatch.setattr(cifar, "open_source", lambda name, data_path: cifars[name])
    monkeypatch.setattr(folders, "scan", lambda *where: first(scan(*where)))
    on_disk = {"tinyimagenet": "tiny", "imagenet": "imagenet"}
    return request.getfixturevalue(on_disk[dataset]) if dataset in on_disk else Path()


@pytest.mark.parametrize(
    ("model", "dataset", "loader"),
    [
        pytest.param(*case, marks=needs_dali if case[2] == "dali" else (), id="-".join(case))
        for case in sorted(MATRIX)
    ],
)
def test_an_epoch(model: str, dataset: str, loader: str, data_path: Path, tmp_path: Path) -> None:
    small = {"batch_size": 4, "batch_size_test": 4, "epochs": 1, "workers": 1, "threads": 2}
    options = {"data_path": str(data_path), "lr": 0.01, **small, **how(loader)}
    recipe = Recipe(model=model, dataset=dataset, **options)
    loaders = open_loaders(recipe, CPU)
    heard = []
    fit(recipe, loaders, lambda metrics, path: heard.append(metrics), directory=tmp_path)
    (metrics,) = heard
    assert all(math.isfinite(value) for name, value in metrics.items() if name != "digest")
    assert metrics["rbnn/rotation_gain"] > 1 and 0 < metrics["rbnn/weight_flips"] < 1
    num_right = metrics["val/top1"] * NUM_VAL / 100
    assert num_right == pytest.approx(round(num_right), abs=1e-4)
    again = build(model, dataset)
    checkpoint.load_weights(again, checkpoint.load(tmp_path / LAST), tmp_path)
    assert checkpoint.state_digest(again) == metrics["digest"]
    assert [row.layer for row in read_rows(tmp_path)] == list(rotated_layers(again))
    if loader == "torchvision":
        assert evaluate(again, loaders.val).items() <= metrics.items()
