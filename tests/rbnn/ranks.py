"""One rank of several, run by tests as a process of its own: `ranks.py RANK SIZE FOLDER CASES`.

CASES, by name: the fields of a recipe, and where its second run is interrupted and resumed, as
[epoch, step]. Writes FOLDER/RANK.json: by case what both runs heard, and the digests of the
rotations after each update. Every rank but the first makes its own rotations wrong before it.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed as dist

from rbnn import checkpoint, engine, network
from rbnn.data import digits
from rbnn.distributed import World
from rbnn.recipe import Recipe
from tests.rbnn import small


def train_part(recipe: Recipe, folder: Path, listener: small.Listener) -> None:
    """`small.train_part`, which all ranks begin with the same files there."""
    dist.barrier()
    with suppress(small.Interrupted):
        small.train_part(recipe, folder, listener)


def main(rank: int, size: int, folder: Path, cases: dict[str, Any]) -> None:
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    few = small.few_digits()
    digits.read = lambda: few
    rotations, ours = [], engine.rotate_and_broadcast

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
        whole, heard = small.Listener(), {}
        rotations.clear()
        recipe = Recipe(**case["recipe"])
        train_part(recipe, folder / f"{name}-whole", whole)
        noted = [*rotations]
        for at in [*map(tuple, case["interruptions"]), None]:
            listener = small.Listener(at, heard)
            train_part(recipe.replace(checkpoint_steps=1), folder / f"{name}-parts", listener)
        results[name] = {"heard": [whole.heard, heard], "rotations": noted}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
