"""What fits where: a sweep's trials on this machine or on a cluster, decided without Ray.

Of small networks one GPU takes several, as each leaves it idle while its host launches: as many as
together compute MOST_WORK multiply-adds in the forward pass of a training batch, at most
MOST_TOGETHER, and as fit MEMORY_SHARE of its memory. On CIFAR-10 at batch 256 that is 8 of
resnet20, whose step is 1e10, and 1 of resnet18 or vgg_small. MOST_WORK is a guess: about what an
H100 computes within the time in which a host starts a step operation by operation. Captured steps
of one resnet20 leave an H100 no gap (LOG); what several gain together has not been measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rbnn.data.resident import DEVICE_BATCH
from rbnn.datasets import dataset_spec
from rbnn.errors import RecipeError
from rbnn.hardware import num_cores
from rbnn.models import build, check_model
from rbnn.recipe import Recipe
from rbnn.session import resolve
from tune.cluster.resources import Capacity, Node
from tune.run.environment import gpu_memory

MOST_TOGETHER = 8
MOST_WORK = 1e11
MEMORY_SHARE = 0.8
KNOWN_MEMORY = 16e9  # bytes, where nobody says how much there is
CONTEXT = 1.5e9  # bytes: of CUDA, its libraries and their workspaces, in each process
FLOAT = 4  # bytes
COPIES_OF_WEIGHTS, COPIES_OF_OUTPUTS = 4, 3  # gradient, momentum; kept for backward, and its own


@dataclass(frozen=True)
class Placement:
    """A sweep's trials: the recipe with its threads, GPUs of one trial, trials at once."""

    recipe: Recipe
    gpus: float
    concurrent: int


def place(
    baseline: Recipe,
    capacity: Capacity | None = None,
    *,
    num_trials: int,
    gpus_per_trial: float,
    most_at_once: int,
    concurrent: int = 0,
    searched: Sequence[Recipe] = (),
) -> Placement:
    """The placement of trials of `baseline` on the nodes of a cluster, or on this machine.

    A trial of one worker lives on one node; several workers may lie on several, a core and, with
    GPUs, a GPU each at least. gpus_per_trial: 0 as these machines allow, where small networks share
    a GPU. concurrent: 0 as many as fit, at most `most_at_once`. searched:
    the largest recipes that trials may have. RecipeError for what could never be placed.
    """
    check_model(baseline.model, baseline.dataset)
    room = capacity or Capacity((Node(num_cores(), torch.cuda.device_count()),), "this machine")
    workers, threads = baseline.train_workers, baseline.threads
    if baseline.gpus not in ("", "none"):
        raise RecipeError(
            f"gpus is '{baseline.gpus}', and Ray hands out the GPUs of {room.where}; set "
            "gpus_per_trial, and CUDA_VISIBLE_DEVICES to use some of one machine's only"
        )
    without = baseline.gpus == "none"
    num_gpus, most_gpus = (0.0, 0.0) if without else (room.gpus, room.most_gpus)
    gpus = gpus_per_trial or (float(workers) if num_gpus else 0.0)
    per_worker = gpus if workers == 1 else min(gpus, 1.0)
    if per_worker > most_gpus or gpus > num_gpus:
        has = f"but this machine has {num_gpus:g} GPUs"
        if capacity:
            has = f"and no node of {room.where} has more than {most_gpus:g} GPU(s), all nodes "
            has += f"together {num_gpus:g}"
        raise RecipeError(
            f"gpus_per_trial is {gpus:g}, {has}; lower it or run where there are more"
        )
    packed, cpus = 1, float(threads or 1)
    if gpus and not gpus_per_trial:
        memory = (0.0 if capacity else gpu_memory()) or KNOWN_MEMORY
        packed = min(trials_per_gpu(recipe, memory) for recipe in searched or [baseline])
    fitting = [room.fitting(cpus, per_worker * share(num)) for num in range(1, packed + 1)]
    slots = fitting[-1] // workers
    chosen = concurrent or max(1, min(slots, most_at_once))
    if chosen > slots:
        raise RecipeError(
            f"{chosen} trial(s) at once with {workers} worker(s) of {cpus:g} thread(s) and "
            f"{gpus:g} GPU(s) each do not fit {room.where} ({room.cpus:g} cores, {num_gpus:g} "
            f"GPUs); at most {slots} do: lower --concurrent, workers_per_trial or threads"
        )
    if packed > 1:
        together = next(num for num, fit in enumerate(fitting, 1) if fit >= chosen)
        gpus = per_worker = share(together)
    if capacity:  # whether every node has a compiler is not known here, so auto becomes off
        threads = threads or _most_threads(capacity, per_worker, chosen * workers)
        compiles = "on" if baseline.compile == "on" else "off"
        return Placement(baseline.replace(threads=threads, compile=compiles), gpus, chosen)
    # What a process compiles serves all that it runs; several workers are new ones for each trial.
    in_turn = math.ceil(num_trials / chosen) if workers == 1 else 1
    return Placement(resolve(baseline, share=chosen, in_turn=in_turn), gpus, chosen)


def _most_threads(capacity: Capacity, gpus: float, processes: int) -> int:
    """The largest number of threads that so many processes can each have at once."""
    threads = max(1, int(max(node.cpus for node in capacity.nodes)))
    while threads > 1 and capacity.fitting(threads, gpus) < processes:
        threads -= 1
    return threads


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
