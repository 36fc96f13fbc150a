"""Every model on every data set that takes it, and every loader with every data set: one short
epoch, trained, validated and kept.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rbnn import checkpoint
from rbnn.data import LOADERS, cifar, digits, folders, open_loaders
from rbnn.data.source import Source, Split
from rbnn.datasets import DATASETS
from rbnn.diagnostics import read_rows
from rbnn.engine import LAST, evaluate, fit
from rbnn.layers import rotated_layers
from rbnn.models import MODELS, build
from rbnn.recipe import Recipe

pytestmark = pytest.mark.usefixtures("settings_put_back")

CPU = torch.device("cpu")
HAS_DALI = (
    importlib.util.find_spec("nvidia") is not None
    and importlib.util.find_spec("nvidia.dali") is not None
)
FIRST_OF_ITS_SIZE = {size: model for model, size in reversed(MODELS)}
MATRIX = [
    pytest.param(
        model,
        dataset,
        loader,
        marks=pytest.mark.skipif(
            loader == "dali" and not HAS_DALI, reason="NVIDIA DALI is not installed"
        ),
        id=f"{model}-{dataset}-{loader}",
    )
    for model, size in MODELS
    for dataset, spec in DATASETS.items()
    for loader in LOADERS
    if size == spec.image_size and (loader != "resident" or spec.in_memory)
    if loader == "torchvision" or model == FIRST_OF_ITS_SIZE[size]
]
NUM_TRAIN, NUM_VAL = 6, 3


def first(source: Source) -> Source:
    """The first images of each split, every class being kept in the list of classes."""
    train, val = (
        split.subset(np.arange(num))
        for split, num in ((source.train, NUM_TRAIN), (source.val, NUM_VAL))
    )
    return dataclasses.replace(source, train=train, val=val)


def random_images(num_classes: int) -> Source:
    """What CIFAR's files hold, made up: nothing is downloaded for tests."""
    rng = np.random.default_rng(7)
    splits = [
        Split(
            rng.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8),
            rng.integers(0, num_classes, num),
        )
        for num in (NUM_TRAIN, NUM_VAL)
    ]
    return Source(*splits, tuple(map(str, range(num_classes))), "sha256:random")


@pytest.fixture
def data_path(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> Path:
    """The folder of a few images of the data set."""
    if dataset == "digits":
        few = first(digits.read())
        monkeypatch.setattr(digits, "read", lambda: few)
        return Path()
    if dataset in ("cifar10", "cifar100"):
        monkeypatch.setattr(
            cifar, "open_source", lambda name, data_path: random_images(DATASETS[name].num_classes)
        )
        return Path()
    known = folders.scan
    monkeypatch.setattr(folders, "scan", lambda *where: first(known(*where)))
    return Path(request.getfixturevalue({"tinyimagenet": "tiny", "imagenet": "imagenet"}[dataset]))


@pytest.mark.parametrize(("model", "dataset", "loader"), MATRIX)
def test_one_short_epoch(
    model: str, dataset: str, loader: str, data_path: Path, tmp_path: Path
) -> None:
    how = {"use_dali": True} if loader == "dali" else {"loader": loader}
    small = {
        "batch_size": 4,
        "batch_size_test": 4,
        "epochs": 1,
        "workers": 1,
        "threads": 2,
        "lr": 0.01,
    }
    recipe = Recipe(model=model, dataset=dataset, data_path=str(data_path), **small, **how)
    loaders = open_loaders(recipe, CPU)
    heard = []
    fit(recipe, loaders, lambda metrics, path: heard.append(metrics), directory=tmp_path)
    (metrics,) = heard
    assert all(math.isfinite(value) for name, value in metrics.items() if name != "digest")
    assert metrics["rbnn/rotation_gain"] > 1 and 0 < metrics["rbnn/weight_flips"] < 1
    num_right = metrics["val/top1"] * NUM_VAL / 100
    assert num_right == pytest.approx(round(num_right), abs=1e-5)
    again = build(model, dataset)
    checkpoint.load_weights(again, checkpoint.load(tmp_path / LAST), tmp_path)
    assert checkpoint.state_digest(again) == metrics["digest"]
    assert [row.layer for row in read_rows(tmp_path)] == list(rotated_layers(again))
    if loader == "torchvision":
        assert evaluate(again, loaders.val).items() <= metrics.items()
