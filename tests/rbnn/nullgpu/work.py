"""Does on a GPU what a run does and prints what each part launched, as one JSON object.

    work.py compile|eager MODEL PRECISION BATCH_SIZE
    work.py ranked MODE RANK SIZE FOLDER

Run by `test_nullgpu.py` under the stand-in for CUDA: no kernel computes anything, so what a run
would read is replaced, and only what it asks of the device is looked at. On a real GPU the counts
are torch's profiler's (benchmarks/first_gpu_run.sh).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from rbnn import checkpoint, engine
from rbnn.data.loading import Batch, DataInfo, Drawn, Loaders
from rbnn.data.resident import loaders
from rbnn.data.source import Split
from rbnn.datasets import dataset_spec
from rbnn.distributed import World
from rbnn.metrics import Counts
from rbnn.recipe import Recipe
from rbnn.state import CheckpointWriter, restore

STEPS, WARM = 8, 4
KEYS = ("launches", "h2d", "d2h", "syncs", "graphs", "graph_nodes", "gemm", "cudnn")
LIB = ctypes.CDLL(os.environ["NULLCUDA_SO"]) if "NULLCUDA_SO" in os.environ else None
# What the profiler calls them.
CALLS = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "graphs": ("cudaGraphLaunch",),
    "syncs": ("cudaStreamSynchronize", "cudaEventSynchronize"),
    "h2d": ("Memcpy HtoD",),
    "d2h": ("Memcpy DtoH",),
}


def counts() -> dict[str, int]:
    assert LIB is not None
    LIB.null_get.restype = ctypes.c_long
    return {key: LIB.null_get(key.encode()) for key in KEYS}


@contextmanager
def counting(found: dict[str, Any], name: str, num: int = 1) -> Iterator[None]:
    """What is asked of the GPU within, a `num`-th of it, as found[name]."""
    if LIB is not None:
        before = counts()
        yield
        found[name] = {key: (value - before[key]) / num for key, value in counts().items()}
        return
    with torch.profiler.profile() as seen:
        yield
        torch.cuda.synchronize()
    events = [(event.key, event.count) for event in seen.key_averages()]
    found[name] = {
        key: sum(times for event, times in events if event.startswith(starts)) / num
        for key, starts in CALLS.items()
    }


def known_metrics(self: Counts, prefix: str) -> dict[str, float]:
    """What `Counts.metrics` would give: read all the same, and replaced."""
    self.sums.tolist()
    return {f"{prefix}/loss": 1.0, f"{prefix}/top1": 10.0, f"{prefix}/top5": 50.0}


def made(recipe: Recipe, device: torch.device, world: World) -> Loaders:
    """STEPS batches to train on and 10,000 images to evaluate, or two batches of large ones."""
    info, size = DataInfo(recipe.dataset, "made"), recipe.batch_size
    if dataset_spec(recipe.dataset).in_memory:
        shapes = (size * STEPS, 3, 32, 32), (10_000, 3, 32, 32)
        train, val = (Split(np.zeros(s, np.uint8), np.zeros(s[0], np.int64)) for s in shapes)
        return Loaders(*loaders(recipe, train, val, device, world), info)
    images = torch.zeros(size, 3, 224, 224, device=device)
    batch = images, torch.zeros(size, dtype=torch.int64, device=device)
    many = SimpleNamespace(num_batches=STEPS, num_images=size * STEPS)
    many.epoch = lambda epoch, start=0: iter([batch] * (STEPS - start))
    return Loaders(many, [batch] * 2, info)


def prepared(mode: str, **options: Any) -> Recipe:
    """A recipe of two epochs, with what it would read from the device replaced."""
    engine._check_finite = lambda run: None
    Counts.metrics = known_metrics  # type: ignore[method-assign]
    compiled = "on" if mode == "compile" else "off"
    return Recipe(compile=compiled, epochs=2, threads=1, **options)


class Interrupted(Exception):
    """The end of a part."""


def fitted(
    recipe: Recipe, data: Loaders, device: torch.device, folder: Path, *, parts: bool = False
) -> list[str]:
    """What a run reports; in `parts` it is killed after its first epoch, and goes on."""
    heard: list[str] = []

    def report(metrics: dict[str, Any], path: Path | None) -> None:
        heard.append(f"{metrics['epoch']} {bool(path and path.is_file())}")
        if parts and len(heard) == 1:
            raise Interrupted

    with suppress(Interrupted):
        engine.fit(recipe, data, report, device=device, directory=folder)
    if parts:
        dist.barrier()  # the first rank writes the checkpoint
        last = folder / engine.LAST
        engine.fit(recipe, data, report, device=device, directory=folder, resume=last)
    return heard


def generated() -> dict[str, int]:
    """Of the code that Inductor made here: kernels, those that may be tuned by their speed in a way
    that changes bits, and atomic additions.
    """
    from torch._inductor.codecache import PyCodeCache

    text = "".join(Path(module.__file__).read_text() for module in PyCodeCache.modules)
    kernels, fixed = text.count("inductor_meta="), text.count("'deterministic': True")
    return {"kernels": kernels, "tuned": kernels - fixed, "atomics": text.count("tl.atomic_")}


def main(mode: str, model: str, precision: str, batch_size: str, dataset: str) -> dict[str, Any]:
    device = torch.device("cuda")  # of no index, as callers write it
    options = {"model": model, "precision": precision, "batch_size": int(batch_size)}
    recipe = prepared(mode, dataset=dataset, **options)
    data = made(recipe, device, World())
    run, found = engine.start(recipe, device), {}

    def watched() -> Iterator[Batch | Drawn]:
        batches = iter(data.train.epoch(0))
        for _ in range(WARM):
            yield next(batches)
        with counting(found, "step", STEPS - WARM):
            yield from batches

    def after_warming(name: str, work: Callable[[], object]) -> None:
        for _ in range(WARM):
            work()
        with counting(found, name):
            work()

    def diagnostics() -> None:
        run.diagnostics.begin()
        run.diagnostics.before_update()
        run.diagnostics.after_update()
        run.diagnostics.end(0)

    run.network.train()
    engine.train_epoch(run, watched(), STEPS + 1)
    after_warming("rotation", lambda: engine.rotate_and_broadcast(run.network, run.world))
    after_warming("diagnostics", diagnostics)
    after_warming("evaluation", lambda: engine.evaluate(run.network, data.val))
    after_warming("digest", lambda: checkpoint.state_digest(run.model))
    folder = Path(tempfile.mkdtemp())
    keeper = CheckpointWriter(folder, "made")
    run.metrics = {"val/top1": 10.0, "epoch": 0}
    after_warming("checkpoint", lambda: keeper.step(run, 1.0))
    again = engine.start(recipe, device)
    run.diagnostics.begin()
    restore(again, folder / engine.LAST, "made")
    found["resumed"] = again.step
    found["heard"] = fitted(recipe, data, device, folder / "whole")
    found["generated"] = generated()
    found["deterministic"] = [
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ["CUBLAS_WORKSPACE_CONFIG"],
    ]
    return found


def ranked(mode: str, rank: str, size: str, folder: str) -> dict[str, Any]:
    """A rank of several, each with a GPU. NCCL needs a real one."""
    store = dist.FileStore(f"{folder}/store", int(size))
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(size))
    device = torch.device("cuda", int(rank))
    recipe = prepared(mode, dataset="cifar10", batch_size=32, train_workers=int(size))
    data = made(recipe, device, World.current())
    found: dict[str, Any] = {"heard": fitted(recipe, data, device, Path(folder), parts=True)}
    others = [other for other in range(int(size)) if other != int(rank)]
    found["elsewhere"] = sum(torch.cuda.max_memory_allocated(other) for other in others)
    return found


if __name__ == "__main__":
    np.seterr(all="ignore")
    work = ranked if sys.argv[1] == "ranked" else main
    print(json.dumps(work(*sys.argv[1 + (work is ranked) :])), flush=True)
    os._exit(0)  # nothing of the stand-in's needs to be taken down
