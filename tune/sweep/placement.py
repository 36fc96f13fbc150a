"""What fits where: a sweep's trials on this machine or on the nodes at hand, decided before
anything starts, without Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rbnn.errors import RecipeError
from rbnn.hardware import gpu_ids, num_cores
from rbnn.models import check_model
from rbnn.recipe import Recipe
from rbnn.session import resolve
from tune.cluster.resources import Capacity, gpu_slots
from tune.run.environment import gpu_memory
from tune.sweep.packing import KNOWN_MEMORY, share, trials_per_gpu


@dataclass(frozen=True)
class Placement:
    """A sweep's trials: the recipe with its threads, GPUs of one trial, trials at once."""

    recipe: Recipe
    gpus: float
    concurrent: int


def place_here(
    baseline: Recipe,
    *,
    num_trials: int,
    gpus_per_trial: float,
    most_at_once: int,
    concurrent: int = 0,
    searched: Sequence[Recipe] = (),
) -> Placement:
    """The placement of trials of `baseline` on this machine, in a Ray of their own; arguments as
    `place_on_cluster`'s.

    num_trials: of the whole sweep, as what a process compiles serves all that it runs in turn.
    Raises RecipeError, one line, for a sweep that could never be placed.
    """
    if baseline.gpus not in ("", "none"):
        raise RecipeError(
            f"gpus is '{baseline.gpus}', and Ray hands out the GPUs of a sweep; set "
            "gpus_per_trial, and CUDA_VISIBLE_DEVICES to use some of this machine's only"
        )
    workers, threads = baseline.train_workers, baseline.threads
    usable = min(max(torch.cuda.device_count(), 1), baseline.batch_size // 2)
    num_gpus = len(gpu_ids(baseline.replace(train_workers=usable)))
    gpus = gpus_per_trial or (float(workers) if num_gpus else 0.0)
    if gpus > num_gpus:
        raise RecipeError(
            f"gpus_per_trial is {gpus:g}, but this machine has {num_gpus} GPUs; lower it or run "
            "where there are more"
        )
    packed = 1
    if gpus and not gpus_per_trial:
        packed = _packed(searched or [baseline], gpu_memory() or KNOWN_MEMORY)
    slots = num_cores() // (workers * max(threads, 1))
    if gpus:
        slots = min(slots, gpu_slots(num_gpus, gpus) * packed)
    chosen = concurrent or max(1, min(slots, most_at_once))
    if chosen > slots:
        of = f" of {threads} threads" if threads else ""
        raise RecipeError(
            f"{chosen} trial(s) at once with {workers} worker(s){of} each do not fit this machine "
            f"({num_cores()} cores, {num_gpus} GPUs); at most {slots} do: lower --concurrent, "
            "workers_per_trial or threads"
        )
    if packed > 1:
        gpus = share(math.ceil(chosen / num_gpus))
    # Several workers are new processes for each trial.
    in_turn = math.ceil(num_trials / chosen) if workers == 1 else 1
    return Placement(resolve(baseline, share=chosen, in_turn=in_turn), gpus, chosen)


def place_on_cluster(
    baseline: Recipe,
    capacity: Capacity,
    *,
    gpus_per_trial: float,
    most_at_once: int,
    concurrent: int = 0,
    searched: Sequence[Recipe] = (),
) -> Placement:
    """The placement of trials of `baseline` on the nodes of a cluster; the driver's own machine
    does not matter.

    compile auto becomes off: whether every node has a compiler is not known here; `compile: on`
    compiles on each. A trial of one worker lives on one node; several workers may lie on several, a
    core and, with GPUs, a GPU each at least. gpus_per_trial: 0 as the cluster allows, where small
    networks share a GPU: see `tune.sweep.packing`. concurrent: 0 as many as fit, at most
    `most_at_once`. searched: the largest recipes that trials may have. Raises RecipeError, one
    line, for a sweep that could never be placed.
    """
    check_model(baseline.model, baseline.dataset)
    workers, threads, where = baseline.train_workers, baseline.threads, capacity.where
    if baseline.gpus not in ("", "none"):
        raise RecipeError(
            f"gpus is '{baseline.gpus}', GPUs of one machine, and trials run on {where}; set "
            "gpus_per_trial instead"
        )
    without = baseline.gpus == "none"
    num_gpus, most_gpus = (0.0, 0.0) if without else (capacity.gpus, capacity.most_gpus)
    gpus = gpus_per_trial or (float(workers) if num_gpus else 0.0)
    per_worker = gpus if workers == 1 else min(gpus, 1.0)
    if gpus and (not num_gpus or per_worker > capacity.most_gpus or gpus > num_gpus):
        raise RecipeError(
            f"gpus_per_trial is {gpus:g}, and no node of {where} has more than {most_gpus:g} "
            f"GPU(s), all nodes together {num_gpus:g}; lower it, or add such a node"
        )
    cpus = float(threads or 1)
    packed = _packed(searched or [baseline], KNOWN_MEMORY) if gpus and not gpus_per_trial else 1
    fitting = [capacity.fitting(cpus, per_worker * share(num)) for num in range(1, packed + 1)]
    slots = fitting[-1] // workers
    chosen = concurrent or min(slots, most_at_once)
    if slots == 0 or chosen > slots:
        raise RecipeError(
            f"{max(chosen, 1)} trial(s) at once with {workers} worker(s) of {cpus:g} thread(s) and "
            f"{gpus:g} GPU(s) each do not fit {where} ({len(capacity.nodes)} node(s), "
            f"{capacity.cpus:g} cores, {num_gpus:g} GPUs); at most {slots} do: lower --concurrent, "
            "threads or workers_per_trial"
        )
    if packed > 1:
        together = next(num for num, fit in enumerate(fitting, 1) if fit >= chosen)
        gpus = per_worker = share(together)
    threads = threads or _most_threads(capacity, per_worker, chosen * workers)
    compiles = "on" if baseline.compile == "on" else "off"
    return Placement(baseline.replace(threads=threads, compile=compiles), gpus, chosen)


def _packed(recipes: Sequence[Recipe], memory: float) -> int:
    """How many trials one GPU takes, whichever of these recipes they have."""
    return min(trials_per_gpu(recipe, memory) for recipe in recipes)


def _most_threads(capacity: Capacity, gpus: float, processes: int) -> int:
    """The largest number of threads that so many processes can each have at once."""
    threads = max(1, int(max(node.cpus for node in capacity.nodes)))
    while threads > 1 and capacity.fitting(threads, gpus) < processes:
        threads -= 1
    return threads
