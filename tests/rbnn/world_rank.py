"""One of two processes that share a World, run by test_distributed: `world_rank.py RANK FOLDER`.

Writes FOLDER/RANK.pt: its rank, size, whether it leads, a sum over both, and tensors that differ
between the ranks as rank 0 has sent them.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import distributed as dist

from rbnn.distributed import World


def main(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    world = World.current()
    generator = torch.Generator().manual_seed(rank)
    tensors = [
        torch.randn(3, 4, generator=generator),
        torch.randn(5, generator=generator, dtype=torch.float64),
        torch.arange(4) + rank,
        torch.randn(4, 6, generator=generator).T,
        torch.tensor([0.0, -0.0, float("nan"), 1e-42]) if rank == 0 else torch.ones(4),
        torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
    ]
    world.broadcast_(tensors)
    total = torch.tensor([1.0 + rank, 10.0])
    world.sum_(total)
    tensors = [tensor.detach() for tensor in tensors]
    torch.save((world.rank, world.size, world.leads, total, tensors), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
