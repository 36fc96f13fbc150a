"""`python -m benchmarks.peak_memory KIND NETWORK BATCH_SIZE DEVICE`: bytes that a training step
adds to the peak of memory.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from rbnn.threading_env import set_threading

STATUS = Path("/proc/self/status")
RUSAGE_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def peak_bytes() -> int:
    """The most resident memory this process ever had. (Linux: not ru_maxrss, which starts from the
    parent process's.)
    """
    if STATUS.exists():
        return 1024 * next(
            int(line.split()[1])
            for line in STATUS.read_text(encoding="utf-8").splitlines()
            if line.startswith("VmHWM")
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT_BYTES


def main(kind: str, network: str, batch_size: int, device_type: str) -> None:
    """Print what two training steps add, after one of two images has loaded the kernels; of a GPU,
    what torch allocated.
    """
    set_threading()
    import torch

    from benchmarks.networks import images_and_labels, networks, training_step

    device = torch.device(device_type)
    on_gpu = device.type == "cuda"
    model = networks(network, device, (kind,))[kind]
    training_step(model, *images_and_labels(2, device))()
    step = training_step(model, *images_and_labels(batch_size, device))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if on_gpu else peak_bytes()
    step()
    step()
    print((torch.cuda.max_memory_allocated(device) if on_gpu else peak_bytes()) - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
