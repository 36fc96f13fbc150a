"""Training step, evaluation and peak memory of the CIFAR networks."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.measure import Benchmark, Row, Setting, alternate, compared
from benchmarks.networks import FLOAT, UNFUSED, images_and_labels, networks, training_step
from rbnn.engine import evaluate

NUM_EVAL_BATCHES = 2
MIB = 2**20


def step_rows(setting: Setting, network: str) -> list[Row]:
    """One training step against both baselines, on each device."""
    rows = []
    for device in setting.devices:
        data = images_and_labels(setting.batch_size, device)
        steps = {kind: training_step(model, *data) for kind, model in networks(network, device).items()}
        seconds = alternate(steps, setting.rounds, device=device, repeats=1 if device.type == "cpu" else 10)
        name = f"training step {network}, batch {setting.batch_size}, {device.type}"
        rows += [
            compared(name, UNFUSED, seconds["rbnn"], seconds["unfused"]),
            compared(name, FLOAT, seconds["rbnn"], seconds["float"]),
        ]
    return rows


def evaluation_rows(setting: Setting, network: str) -> list[Row]:
    """`rbnn.engine.evaluate` over a few batches of 128."""
    rows = []
    for device in setting.devices:
        batches = [images_and_labels(128, device)] * NUM_EVAL_BATCHES
        models = networks(network, device, ("rbnn", "unfused"))
        seconds = alternate(
            {kind: partial(evaluate, model, batches) for kind, model in models.items()}, setting.rounds, device=device
        )
        rows.append(compared(f"evaluation {network}, 256 images, {device.type}", UNFUSED, seconds["rbnn"], seconds["unfused"]))
    return rows


def memory_rows(setting: Setting, network: str) -> list[Row]:
    """What a training step adds to the peak of a process's resident memory; each in processes of its own."""

    def measured(kind: str) -> float:
        command = [sys.executable, "-m", "benchmarks.peak_memory", kind, network, str(setting.batch_size)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        return float(ran.stdout) / MIB

    kinds = ("rbnn", "unfused", "float")
    added = {kind: list[float]() for kind in kinds}
    for _ in range(3 if setting.full else 2):
        for kind in kinds:
            added[kind].append(measured(kind))
    name = f"peak memory of a step {network}, batch {setting.batch_size}"
    return [
        compared(name, UNFUSED, added["rbnn"], added["unfused"], unit="MiB"),
        compared(name, FLOAT, added["rbnn"], added["float"], unit="MiB"),
    ]


BENCHMARKS = [
    Benchmark("training step resnet20", f"{UNFUSED}; {FLOAT}", partial(step_rows, network="resnet20_1w1a")),
    Benchmark("training step resnet18", f"{UNFUSED}; {FLOAT}", partial(step_rows, network="resnet18_1w1a"), full_only=True),
    Benchmark("evaluation resnet20", UNFUSED, partial(evaluation_rows, network="resnet20_1w1a")),
    Benchmark("evaluation resnet18", UNFUSED, partial(evaluation_rows, network="resnet18_1w1a"), full_only=True),
    Benchmark("peak memory resnet20", f"{UNFUSED}; {FLOAT}", partial(memory_rows, network="resnet20_1w1a")),
]
