"""Work that a GPU repeats, captured once as a CUDA graph: the host then starts it with one launch.

A small network on a fast GPU is bound by the host's launches: thousands a training step, 2 to 10
microseconds each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2  # calls before a capture: compilers, libraries and optimisers allocate in the first


class Captured:
    """`work(*inputs)` as a GPU runs it again and again: operation by operation WARM_UPS times for
    inputs of given shapes, then as one graph.

    Every call does the same work on the same memory, with the same kernels and so the same bits: a
    graph reads copies of its inputs, and whatever else it reads or writes must stay where it was
    (parameters, buffers, optimiser state). What `work` returns is a tensor that the next call
    overwrites, or None. It must not wait for the GPU.
    """

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work
        self.calls: dict[tuple[torch.Size, ...], int] = {}
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]]
        self.graphs = {}

    def __call__(self, *inputs: Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes in self.graphs:
            graph, places, result = self.graphs[shapes]
            for place, given in zip(places, inputs, strict=True):
                place.copy_(given)
            graph.replay()
            return result
        calls = self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if calls <= WARM_UPS:
            return self._beside(*inputs)
        places = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        # The threads of data loaders, of a checkpoint or of NCCL may go on using CUDA meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self.work(*places)
        self.graphs[shapes] = graph, places, result
        graph.replay()
        return result

    def _beside(self, *inputs: Tensor) -> Any:
        """On a stream of its own, as a capture will be: what autograd and libraries keep by stream
        is then there.
        """
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            result = self.work(*inputs)
        current.wait_stream(stream)
        return result
