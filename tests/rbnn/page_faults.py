"""`page_faults.py kept | given-back`: page faults of ten steps of six tensors of 16 MB."""

from __future__ import annotations

import resource
import sys

import torch

from rbnn.hardware import keep_freed_memory

if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "kept":
        keep_freed_memory()
    for step in range(12):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(4 << 20) for _ in range(6)]
        del tensors
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
