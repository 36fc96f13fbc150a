"""What this machine offers a run: cores, GPUs, a rank's device; and the process-wide settings that
make runs repeatable.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys

import torch

from rbnn.errors import RecipeError
from rbnn.recipe import Recipe

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def num_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_ids(recipe: Recipe) -> list[int]:
    """The GPUs that `gpus` names; the first one where it is empty and there is one; none for the
    CPU.

    Raises RecipeError, one line, for GPUs that are not there.
    """
    present = torch.cuda.device_count()
    if recipe.gpus == "none":
        return []
    if not recipe.gpus:
        return list(range(min(present, recipe.train_workers)))
    parts = [part.strip() for part in recipe.gpus.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise RecipeError(
            f"gpus is '{recipe.gpus}'; it must be GPU numbers such as 0,1, or none for the CPU"
        )
    missing = [part for part in parts if int(part) >= present]
    if missing:
        has = f"has {present} GPU{'s' * (present != 1)}" if present else "has no GPU"
        remedy = (
            f"--gpus {','.join(map(str, range(present)))}"
            if present
            else "--gpus none to train on the CPU"
        )
        raise RecipeError(f"gpus is '{recipe.gpus}', but this machine {has}; pass {remedy}")
    return [int(part) for part in parts]


def device_of(recipe: Recipe, rank: int = 0) -> torch.device:
    """The device that a rank of a run started in this process uses."""
    gpus = gpu_ids(recipe)
    return torch.device("cuda", gpus[rank]) if gpus else torch.device("cpu")


def obstacle(kind: str) -> str:
    """Why code cannot be compiled here for a device of that kind ("cpu" or "cuda"), in a few words;
    "" where it can.
    """
    if kind == "cuda" and not importlib.util.find_spec("triton"):
        return "Triton is not installed"
    variable, language, usual = (
        ("CC", "C", ["gcc", "clang"]) if kind == "cuda" else ("CXX", "C++", ["g++", "clang++"])
    )
    compilers = [os.environ[variable]] if os.environ.get(variable) else usual
    return (
        ""
        if any(map(shutil.which, compilers))
        else f"there is no {language} compiler ({' or '.join(compilers)})"
    )


def prepare_process(recipe: Recipe, device: torch.device) -> None:
    """Set threads, deterministic kernels, precision and denormal flushing for this process: the
    recipe's bits depend on them. BN weights of 1e-8 make denormals, which are slow on CPUs.

    What gives other bits each time on a GPU, and what excludes it:
        sums by atomic additions (index_add_, scatter_add_, index_put_ with accumulate, backward of
        interpolation, grid_sample, adaptive and max pooling in some forms): torch then raises an
        error or takes another way; compiled code has none
        cuDNN's choice of an algorithm by its speed: benchmark is off, the choice a rule
        cuBLAS with a workspace that streams share: CUBLAS_WORKSPACE_CONFIG
        Inductor's choice of how a sum is split by its speed: network.CUDA_OPTIONS
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()
    torch.set_num_threads(recipe.threads or num_cores())
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    # Filling every fresh tensor took 9 % of a step; nothing here reads memory that it did not
    # write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = recipe.precision != "float32"
        # The weights' rotation stays float32, whatever the activations are computed in.
        torch.backends.cuda.matmul.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let glibc keep what a step's tensors free for the next step's; other C libraries stay as they
    are.

    It gave the memory back to the system, and 4,500 page faults a step took 8 % of it (resnet20,
    batch 32, one thread).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
