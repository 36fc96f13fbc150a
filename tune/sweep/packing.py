"""How many trials one GPU takes: of small networks several, as each leaves it idle while its host
launches.

The rule: as many as together compute MOST_WORK multiply-adds in the forward pass of a training
batch, at most MOST_TOGETHER, and as fit MEMORY_SHARE of its memory. On CIFAR-10 at batch 256 that
is 8 of resnet20, whose step is 1e10, and 1 of resnet18 or vgg_small. MOST_WORK is a guess until a
card has measured it: about what an H100 computes within the time in which a host starts a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rbnn.data.resident import DEVICE_BATCH
from rbnn.datasets import dataset_spec
from rbnn.models import build
from rbnn.recipe import Recipe

MOST_TOGETHER = 8
MOST_WORK = 1e11
MEMORY_SHARE = 0.8
KNOWN_MEMORY = 16e9  # bytes, where nobody says how much there is
CONTEXT = 1.5e9  # bytes: of CUDA, its libraries and their workspaces, in each process
FLOAT = 4  # bytes
COPIES_OF_WEIGHTS, COPIES_OF_OUTPUTS = 4, 3  # gradient, momentum; kept for backward, and its own


@dataclass(frozen=True)
class Work:
    """Of a network: parameters; of an image: multiply-adds, elements of all outputs, largest."""

    parameters: int
    multiply_adds: int
    outputs: int
    largest: int


@cache
def work_of(model: str, dataset: str) -> Work:
    """Counted on a forward pass that computes nothing."""
    with torch.device("meta"):
        network, size = build(model, dataset).eval(), dataset_spec(dataset).image_size
        image, outputs, products = torch.zeros(1, 3, size, size), [], []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.numel())
        if isinstance(module, nn.Conv2d | nn.Linear):
            products.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if not [*module.children()]:
            module.register_forward_hook(note)
    with torch.no_grad():
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Work(parameters, sum(products), sum(outputs), max(outputs))


def memory_of(recipe: Recipe) -> float:
    """Bytes of a GPU that training a recipe takes, about."""
    work, spec = work_of(recipe.model, recipe.dataset), dataset_spec(recipe.dataset)
    data = spec.num_train * 3 * (spec.image_size + 8) ** 2 if spec.in_memory else 0
    training = recipe.batch_size * work.outputs * COPIES_OF_OUTPUTS
    batch = max(recipe.batch_size_test, DEVICE_BATCH if spec.in_memory else 0)
    evaluating = batch * work.largest * COPIES_OF_OUTPUTS
    # Captured work keeps its memory: what a step needs and what an evaluation needs do not overlap.
    floats = work.parameters * COPIES_OF_WEIGHTS + training + evaluating
    return CONTEXT + data + floats * FLOAT


def trials_per_gpu(recipe: Recipe, memory: float = KNOWN_MEMORY) -> int:
    """The most trials of a recipe that one GPU of so many bytes is to take: 1, 2, 4 or 8."""
    if recipe.train_workers > 1:
        return 1
    work = recipe.batch_size * work_of(recipe.model, recipe.dataset).multiply_adds
    most = min(MOST_TOGETHER, MOST_WORK / work, MEMORY_SHARE * memory / memory_of(recipe))
    together = MOST_TOGETHER
    while together > max(1, most):
        together //= 2
    return together


def share(num: int) -> float:
    """The share of a GPU that so many trials have each: Ray counts in ten-thousandths, and rounds
    to the nearest, so that seven of 1/7 would not fit.
    """
    return 10_000 // num / 10_000
