"""The networks under measurement: ours, the same unfused, the same in full precision; and one training step of any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.baseline import to_float, unfuse
from rbnn.binarize import set_surrogate
from rbnn.machine import prepare_process
from rbnn.models import build
from rbnn.recipe import Recipe

UNFUSED = "unfused layer, plain autograd"
FLOAT = "full-precision network of the same shape"
MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {"rbnn": lambda model: model, "unfused": unfuse, "float": to_float}


def networks(name: str, device: torch.device, kinds: tuple[str, ...] = tuple(MAKERS)) -> dict[str, nn.Module]:
    """CIFAR networks of that name by kind, of the same initial weights, in training mode; process settings as a run's."""
    prepare_process(Recipe(dataset="cifar10"), device)
    torch.manual_seed(1234)
    model = build(name, "cifar10")
    set_surrogate(model, t=0.5, k=2.0)
    return {kind: MAKERS[kind](copy.deepcopy(model)).to(device).train() for kind in kinds}


def images_and_labels(batch_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random CIFAR-shaped images (N, 3, 32, 32) and labels (N,)."""
    generator = torch.Generator().manual_seed(1234)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)
    return images.to(device), labels.to(device)


def training_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Forward, backward and SGD, as `rbnn.engine.train_epoch` does them."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
