"""Page faults of ten steps of six tensors of 16 MB: where freed memory is given back, and kept."""

from __future__ import annotations

import resource

import torch

from rbnn.hardware import keep_freed_memory


def num_faults() -> int:
    for step in range(12):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(4 << 20) for _ in range(6)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    given_back = num_faults()
    keep_freed_memory()
    print(given_back, num_faults())
