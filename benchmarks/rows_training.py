"""Training step, evaluation and peak memory of the CIFAR networks."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Benchmark, Row, Setting, alternate, compared
from benchmarks.networks import (
    CIFAR,
    EVAL_BATCH_SIZE,
    FLOAT,
    UNFUSED,
    as_run,
    images_and_labels,
    networks,
    training_step,
)
from rbnn.engine import evaluate
from rbnn.hardware import obstacle

BATCH_SIZE = 256
NUM_EVAL_BATCHES = 2
MIB = 2**20


def step_rows(setting: Setting, network: str) -> list[Row]:
    """One training step, eager and compiled, against both baselines, on each device."""
    rows = []
    for device in setting.devices:
        data = images_and_labels(BATCH_SIZE, device)
        models = networks(network, device)
        steps = {
            kind: training_step(model, *data, fused=kind == "rbnn")
            for kind, model in models.items()
        }
        name, why, note = (
            f"training step {network}, batch {BATCH_SIZE}, {device.type}",
            obstacle(device.type),
            "",
        )
        if not why:
            steps["compiled"] = training_step(
                as_run(models["rbnn"], CIFAR.replace(compile="on"), device), *data, fused=True
            )
            began = time.perf_counter()
            steps["compiled"]()
            note = (
                "the first step, with compiling or reading what was compiled before: "
                f"{time.perf_counter() - began:.0f} s"
            )
        seconds = alternate(
            steps, setting.rounds, device=device, repeats=1 if device.type == "cpu" else 10
        )
        for kind, words in (("rbnn", "eager"), ("compiled", "compiled")):
            if kind not in seconds:
                rows.append(Row(f"{name}, {words}", UNFUSED, note=f"skipped: {why}"))
                continue
            rows += [
                compared(f"{name}, {words}", UNFUSED, seconds[kind], seconds["unfused"]),
                compared(
                    f"{name}, {words}",
                    FLOAT,
                    seconds[kind],
                    seconds["float"],
                    note=note if kind == "compiled" else "",
                ),
            ]
    return rows


def evaluation_rows(setting: Setting, network: str) -> list[Row]:
    """`rbnn.engine.evaluate` over a few batches: eagerly on a CPU whatever `compile` says, captured
    on a GPU.
    """
    rows = []
    for device in setting.devices:
        batches = [images_and_labels(EVAL_BATCH_SIZE, device)] * NUM_EVAL_BATCHES
        models = networks(network, device, ("rbnn", "unfused"))
        if device.type == "cuda" and not obstacle("cuda"):
            models["rbnn"] = as_run(models["rbnn"], CIFAR.replace(compile="on"), device)
        seconds = alternate(
            {kind: partial(evaluate, model, batches) for kind, model in models.items()},
            setting.rounds,
            device=device,
        )
        name = f"evaluation {network}, {NUM_EVAL_BATCHES * EVAL_BATCH_SIZE} images, {device.type}"
        rows.append(compared(name, UNFUSED, seconds["rbnn"], seconds["unfused"]))
    return rows


def memory_rows(setting: Setting, network: str) -> list[Row]:
    """What a training step adds to the peak of a process's memory on each device; processes of
    their own, side by side.
    """

    def measured(kind: str, device: torch.device) -> float:
        command = [
            sys.executable,
            "-m",
            "benchmarks.peak_memory",
            kind,
            network,
            str(BATCH_SIZE),
            device.type,
        ]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
        return float(ran.stdout) / MIB

    kinds, rows = ("rbnn", "unfused", "float"), []
    for device in setting.devices:
        added = {kind: list[float]() for kind in kinds}
        for _ in range(3 if setting.full else 1):
            with ThreadPoolExecutor() as threads:
                for kind, mib in zip(
                    kinds, threads.map(partial(measured, device=device), kinds), strict=True
                ):
                    added[kind].append(mib)
        name = f"peak memory of a step {network}, batch {BATCH_SIZE}, {device.type}"
        rows += [
            compared(name, UNFUSED, added["rbnn"], added["unfused"], unit="MiB"),
            compared(name, FLOAT, added["rbnn"], added["float"], unit="MiB"),
        ]
    return rows


BENCHMARKS = [
    Benchmark(
        "training step resnet20", f"{UNFUSED}; {FLOAT}", partial(step_rows, network="resnet20_1w1a")
    ),
    Benchmark(
        "training step resnet18",
        f"{UNFUSED}; {FLOAT}",
        partial(step_rows, network="resnet18_1w1a"),
        full_only=True,
    ),
    Benchmark("evaluation resnet20", UNFUSED, partial(evaluation_rows, network="resnet20_1w1a")),
    Benchmark(
        "evaluation resnet18",
        UNFUSED,
        partial(evaluation_rows, network="resnet18_1w1a"),
        full_only=True,
    ),
    Benchmark(
        "peak memory resnet20", f"{UNFUSED}; {FLOAT}", partial(memory_rows, network="resnet20_1w1a")
    ),
    Benchmark(
        "peak memory resnet18",
        f"{UNFUSED}; {FLOAT}",
        partial(memory_rows, network="resnet18_1w1a"),
        full_only=True,
    ),
]
