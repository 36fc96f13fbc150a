"""Networks with everything that training changes: statistics, alphas of both signs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rbnn.datasets import dataset_spec
from rbnn.layers import rotated_layers
from rbnn.models import build
from rbnn.packed.package import make
from rbnn.recipe import Recipe

RECIPE = Recipe(dataset="digits", model="resnet20_1w1a", threads=1)


def as_trained(name: str, dataset: str, a32: bool = False) -> nn.Module:
    """A network in evaluation mode, its batch statistics those of two random images."""
    model = build(name, dataset, a32)
    for layer in rotated_layers(model).values():
        layer.alpha.data *= torch.randn_like(layer.alpha).sign()
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
            norm.momentum = None  # the statistics are the mean over the batches seen
    size = dataset_spec(dataset).image_size
    with torch.no_grad():
        model.train()(torch.randn(2, 3, size, size))
    return model.eval()


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A resnet20 for digits."""
    torch.manual_seed(1234)
    return as_trained(RECIPE.model, RECIPE.dataset)


@pytest.fixture(scope="session")
def package(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its package; nobody writes into it."""
    folder = tmp_path_factory.mktemp("made") / "package"
    make(trained, RECIPE, folder)
    return folder


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    """`as_trained`."""
    return as_trained
