"""Does on the pretended GPU what a run does and prints what each part launched, as one JSON object.

    work.py compile|eager MODEL PRECISION BATCH_SIZE

Run by `test_nullgpu.py` under the stand-in for CUDA: no kernel computes anything, so what a run
would read is replaced, and only what it asks of the device is looked at.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rbnn import checkpoint, engine
from rbnn.data.loading import Batch, DataInfo, Drawn, Loaders
from rbnn.data.resident import loaders
from rbnn.data.source import Split
from rbnn.distributed import World
from rbnn.metrics import Counts
from rbnn.recipe import Recipe
from rbnn.state import Keeper, restore

STEPS, WARM = 8, 4
KEYS = ("launches", "h2d", "d2h", "syncs", "graphs", "graph_nodes", "gemm", "cudnn")
LIB = ctypes.CDLL(os.environ["NULLCUDA_SO"])
LIB.null_get.restype = ctypes.c_long


def counts() -> dict[str, int]:
    return {key: LIB.null_get(key.encode()) for key in KEYS}


def since(before: dict[str, int], num: int = 1) -> dict[str, float]:
    return {key: (value - before[key]) / num for key, value in counts().items()}


def known_metrics(self: Counts, prefix: str) -> dict[str, float]:
    """What `Counts.metrics` would give: read all the same, and replaced."""
    self.sums.tolist()
    return {f"{prefix}/loss": 1.0, f"{prefix}/top1": 10.0, f"{prefix}/top5": 50.0}


def main(mode: str, model: str, precision: str, batch_size: str) -> dict[str, Any]:
    engine._check_finite = lambda run: None
    Counts.metrics = known_metrics  # type: ignore[method-assign]
    device, size = torch.device("cuda", 0), int(batch_size)
    recipe = Recipe(
        dataset="cifar10",
        model=model,
        compile="on" if mode == "compile" else "off",
        precision=precision,  # type: ignore[arg-type]
        batch_size=size,
        epochs=2,
        threads=1,
    )
    images = np.zeros((size * STEPS, 3, 32, 32), np.uint8)
    train, val = (
        Split(part, np.zeros(len(part), np.int64))
        for part in (images, np.zeros((10_000, 3, 32, 32), np.uint8))
    )
    pair = loaders(recipe, train, val, device, World())
    run, found = engine.start(recipe, device), {}

    def watched() -> Iterator[Batch | Drawn]:
        for step, batch in enumerate(pair[0].epoch(0)):
            if step == WARM:
                before = counts()
            yield batch
        found["step"] = since(before, STEPS - WARM)

    def after_warming(name: str, work: Callable[[], object]) -> None:
        for _ in range(WARM):
            work()
        before = counts()
        work()
        found[name] = since(before)

    def diagnostics() -> None:
        run.diagnosis.begin()
        run.diagnosis.before_update()
        run.diagnosis.after_update()
        run.diagnosis.end(0)

    run.network.train()
    engine.train_epoch(run, watched(), STEPS + 1)
    after_warming("rotation", lambda: engine.rotate_and_broadcast(run.network, run.world))
    after_warming("diagnostics", diagnostics)
    after_warming("evaluation", lambda: engine.evaluate(run.network, pair[1]))
    after_warming("digest", lambda: checkpoint.state_digest(run.model))
    folder = Path(tempfile.mkdtemp())
    keeper = Keeper(folder, "made")
    run.metrics = {"val/top1": 10.0, "epoch": 0}
    after_warming("checkpoint", lambda: keeper.step(run, 1.0))
    again = engine.start(recipe, device)
    run.diagnosis.begin()
    restore(again, folder / engine.LAST, "made")
    found["resumed"] = again.step
    heard: list[str] = []
    engine.fit(
        recipe,
        Loaders(*pair, DataInfo("cifar10", "made")),
        lambda metrics, path: heard.append(f"{metrics['epoch']} {path and path.is_file()}"),
        device=device,
        directory=folder / "whole",
    )
    found["heard"] = heard
    return found


if __name__ == "__main__":
    np.seterr(all="ignore")
    print(json.dumps(main(*sys.argv[1:])), flush=True)
    os._exit(0)  # nothing of the stand-in's needs to be taken down
