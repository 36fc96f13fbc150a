"""The processes of one training run: how many, which one this is, and the few exchanges the loop
makes.

Built on torch.distributed when its default group exists (Ray Train, torchrun), and on nothing for a
single process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from rbnn.errors import RunFailed


@dataclass(frozen=True)
class World:
    """rank: this process, 0 to size - 1; size: number of processes."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The default process group's, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def gathered(self, tensor: Tensor) -> Tensor:
        """(size, ...) the tensors of all ranks, by rank, on every rank."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def check_equal(self, digest: str, what: str) -> None:
        """RunFailed where the ranks' hexadecimal digests differ: they would train on, each a
        network of its own.
        """
        if self.size == 1:
            return
        device = (
            torch.device("cuda", torch.cuda.current_device())
            if dist.get_backend() == "nccl"
            else torch.device("cpu")
        )
        digests = self.gathered(
            torch.tensor(
                [int(digest[i : i + 8], 16) for i in range(0, len(digest), 8)], device=device
            )
        )
        if not bool((digests == digests[0]).all()):
            raise RunFailed(
                f"{what} differ between the {self.size} workers; this is a fault of the program "
                "or of a machine"
            )

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the bits of rank 0's tensors, in place; one message per dtype."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.broadcast(flat, 0)
            for tensor, part in zip(
                group, flat.split([tensor.numel() for tensor in group]), strict=True
            ):
                tensor.detach().copy_(part.view_as(tensor))
