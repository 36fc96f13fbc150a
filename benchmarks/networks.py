"""The networks under measurement: ours, eager and compiled, unfused, in full precision; and a
training step of any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.baseline import to_float, unfuse
from rbnn.binarize import set_surrogate
from rbnn.datasets import dataset_spec
from rbnn.hardware import prepare_process
from rbnn.models import build
from rbnn.network import Network
from rbnn.recipe import Recipe

EVAL_BATCH_SIZE = 128
UNFUSED = "unfused layer, plain autograd"
FLOAT = "full-precision network of the same shape"
CIFAR = Recipe(dataset="cifar10")
MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "rbnn": lambda model: model,
    "unfused": unfuse,
    "float": to_float,
}


def networks(
    name: str, device: torch.device, kinds: tuple[str, ...] = tuple(MAKERS), recipe: Recipe = CIFAR
) -> dict[str, nn.Module]:
    """Networks of that name by kind, for the recipe's images, of the same initial weights, in
    training mode.

    Process settings are those of a run of the recipe.
    """
    prepare_process(recipe, device)
    torch.manual_seed(1234)
    model = build(name, recipe.dataset)
    set_surrogate(model, t=0.5, k=2.0)
    return {kind: MAKERS[kind](copy.deepcopy(model)).to(device).train() for kind in kinds}


def as_run(model: nn.Module, recipe: Recipe, device: torch.device) -> Network:
    """A copy of `model` as a run of the recipe calls it."""
    return Network(copy.deepcopy(model), recipe, device).train()


def images_and_labels(
    batch_size: int, device: torch.device, dataset: str = "cifar10"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images (N, 3, S, S) of a data set's shape, and labels (N,)."""
    generator = torch.Generator().manual_seed(1234)
    spec = dataset_spec(dataset)
    images = torch.randn(batch_size, 3, spec.image_size, spec.image_size, generator=generator)
    labels = torch.randint(spec.num_classes, (batch_size,), generator=generator)
    return images.to(device), labels.to(device)


def training_step(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, fused: bool = False
) -> Callable[[], None]:
    """Forward, backward and SGD (`fused`: as `rbnn.engine.train_epoch` does it; else torch's
    default).
    """
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=fused or None
    )

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
