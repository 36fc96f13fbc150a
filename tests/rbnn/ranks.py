"""One rank of several, run by tests as a process of its own: `ranks.py RANK SIZE FOLDER CASES`.

CASES, by name: the fields of a recipe, and where its second run is interrupted and resumed, as
[epoch, step]. Writes FOLDER/RANK.json: by case what both runs heard, and the digests of the
rotations after each update. Every rank but the first makes its own rotations wrong before it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from rbnn import checkpoint, engine, network
from rbnn.data import digits, open_loaders
from rbnn.distributed import World
from rbnn.recipe import Recipe


class Interrupted(Exception):
    """The end of a part."""


def train(
    recipe: Recipe, folder: Path, heard: dict[int, Any], at: list[int] | None, world: World
) -> None:
    """One part of a run, from its last checkpoint to `at` or to its end."""

    def report(metrics: dict[str, Any], path: Path | None) -> None:
        plain = {key: value for key, value in metrics.items() if "time/" not in key}
        assert heard.setdefault(metrics["epoch"], plain) == plain

    def progress(epoch: int, step: int, num_steps: int) -> None:
        if [epoch, step] == at:
            raise Interrupted

    last = folder / engine.LAST
    dist.barrier()
    resume = last if last.exists() else None
    dist.barrier()
    try:
        loaders = open_loaders(recipe, torch.device("cpu"), world)
        engine.fit(recipe, loaders, report, directory=folder, resume=resume, progress=progress)
    except Interrupted:
        return


def main(rank: int, size: int, folder: Path, cases: dict[str, Any]) -> None:
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    source, rotations, ours = digits.read(), [], engine.rotate_and_broadcast
    parts = (source.train, 24), (source.val, 17)
    train_split, val = (split.subset(np.arange(num)) for split, num in parts)
    few = dataclasses.replace(source, train=train_split, val=val)
    digits.read = lambda: few

    def noting(net: network.Network, world: World) -> None:
        matrices = [(layer.R1, layer.R2) for layer in net.layers]
        if rank:  # what this rank would have must not matter
            for R1, _ in matrices:
                R1.zero_()
        ours(net, world)
        rotations.append(checkpoint.digest_of(matrices))

    engine.rotate_and_broadcast = noting
    results: dict[str, Any] = {}
    for name, case in cases.items():
        whole: dict[int, Any] = {}
        in_parts: dict[int, Any] = {}
        rotations.clear()
        train(Recipe(**case["recipe"]), folder / f"{name}-whole", whole, None, World.current())
        recipe = Recipe(**case["recipe"]).replace(checkpoint_steps=1)
        noted = [*rotations]
        for at in [*case["interruptions"], None]:
            train(recipe, folder / f"{name}-parts", in_parts, at, World.current())
        results[name] = {"heard": [whole, in_parts], "rotations": noted}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
