"""What fits where: a sweep's trials on this machine or on a cluster, decided without Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rbnn.errors import RecipeError
from rbnn.hardware import num_cores
from rbnn.models import check_model
from rbnn.recipe import Recipe
from rbnn.session import resolve
from tune.cluster.resources import Capacity, Node
from tune.run.environment import gpu_memory
from tune.sweep.packing import KNOWN_MEMORY, share, trials_per_gpu


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
    a GPU: see `tune.sweep.packing`. concurrent: 0 as many as fit, at most `most_at_once`. searched:
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
