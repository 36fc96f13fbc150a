"""What fits where: the nodes that processes may use, as Ray counts them, without Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One machine of a cluster: its CPU cores and GPUs as Ray counts them."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Capacity:
    """The nodes that trials may use. where: their name in messages, `the cluster at HOST:6379`."""

    nodes: tuple[Node, ...]
    where: str

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def most_gpus(self) -> float:
        """GPUs of the node that has most."""
        return max((node.gpus for node in self.nodes), default=0.0)

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many processes of so many CPUs and GPUs run at once, each on one node."""
        return sum(_fitting(node, cpus, gpus) for node in self.nodes)


def _fitting(node: Node, cpus: float, gpus: float) -> int:
    limits = [int(node.cpus / cpus + 1e-9)] if cpus else []
    if gpus:
        limits.append(gpu_slots(node.gpus, gpus))
    return min(limits, default=0)


def gpu_slots(num_gpus: float, gpus: float) -> int:
    """How many processes of `gpus` GPUs each fit on so many; two of 0.6 need two."""
    if gpus < 1:
        return int(num_gpus) * int(1 / gpus + 1e-9)
    return int(num_gpus / gpus + 1e-9)
