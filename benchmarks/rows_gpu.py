"""What only a GPU can show: whole epochs of the CIFAR networks, an ImageNet step, several trials on
one GPU.

Each function takes the device, so that a test can run it on a CPU with little data.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.measure import Benchmark, Row, Setting, alternate, compared
from benchmarks.networks import FLOAT, UNFUSED, as_run, images_and_labels, networks, training_step
from benchmarks.rows_data import cifar_images
from rbnn.data.loading import DataInfo, Loaders
from rbnn.data.resident import loaders
from rbnn.distributed import World
from rbnn.engine import run_epoch, start
from rbnn.hardware import obstacle
from rbnn.recipe import Recipe
from tune.cluster.mps import served

LIMITS_S = {
    "resnet20_1w1a": 0.5,
    "resnet18_1w1a": 3.0,
}  # of an epoch on CIFAR-10, evaluation included, on one H100
IMAGENET_BATCH = 256
PRECISIONS: tuple[Literal["float32", "tf32", "bf16"], ...] = ("float32", "tf32", "bf16")
TOGETHER = (1, 2, 4, 8)
ALONE = "one trial alone"
ROOT = Path(__file__).parents[1]


def compile_mode(device: torch.device) -> Literal["on", "off"]:
    """What `compile auto` comes to in a long run."""
    return "off" if obstacle(device.type) else "on"


def epoch_row(
    setting: Setting,
    network: str,
    device: torch.device,
    num_train: int = 50_000,
    num_val: int = 10_000,
) -> Row:
    """Whole epochs as a run makes them: rotation update, training, evaluation, digest; no
    checkpoint.
    """
    recipe = Recipe(
        dataset="cifar10",
        model=network,
        compile=compile_mode(device),
        threads=torch.get_num_threads(),
    )
    run = start(recipe, device)
    made = loaders(recipe, cifar_images(num_train), cifar_images(num_val), device, World())
    data = Loaders(*made, DataInfo("cifar10", "made"))
    seconds = alternate(
        {"epoch": partial(run_epoch, run, data, None)}, setting.rounds, device=device
    )["epoch"]
    rate, waited = (
        (num_train + num_val) / statistics.median(seconds),
        100 * run.metrics["time/data_wait"],
    )
    note = (
        f"{rate:,.0f} images/s, {waited:.0f} % of the training time waiting for data; compile "
        f"{recipe.compile}"
    )
    limit_s = LIMITS_S[network]
    return compared(
        f"epoch {network}, {device.type}",
        f"{limit_s:g} s",
        seconds,
        [limit_s] * len(seconds),
        note=note,
    )


def imagenet_rows(
    setting: Setting, device: torch.device, batch_size: int = IMAGENET_BATCH
) -> list[Row]:
    """A training step of resnet18 on random 224 x 224 images in each precision, against both
    baselines.

    These compute in float32, with TF32 inputs where the precision is not float32.
    """
    data = images_and_labels(batch_size, device, "imagenet")
    base = Recipe(dataset="imagenet", batch_size=batch_size, compile=compile_mode(device))
    rows = []
    for precision in PRECISIONS:
        recipe = base.replace(precision=precision)
        models = networks("resnet18_1w1a", device, recipe=recipe)
        steps = {kind: training_step(models[kind], *data) for kind in ("unfused", "float")}
        steps["rbnn"] = training_step(as_run(models["rbnn"], recipe, device), *data, fused=True)
        seconds = alternate(
            steps, setting.rounds, device=device, repeats=1 if device.type == "cpu" else 5
        )
        rate = batch_size / statistics.median(seconds["rbnn"])
        name = (
            f"training step resnet18_1w1a, ImageNet, batch {batch_size}, {precision}, {device.type}"
        )
        rows += [
            compared(
                name, UNFUSED, seconds["rbnn"], seconds["unfused"], note=f"{rate:,.0f} images/s"
            ),
            compared(name, FLOAT, seconds["rbnn"], seconds["float"]),
        ]
    return rows


def together_rows(
    setting: Setting, device: torch.device, num_images: int = 50_000, num_epochs: int = 5
) -> list[Row]:
    """Seconds of training per epoch and trial, for several resnet20 trials at once in processes of
    their own.
    """
    each: dict[int, list[float]] = {}
    with served(device.type == "cuda") as variables:
        for num in TOGETHER:
            each[num] = trained_together(num, device, num_images, num_epochs, variables)
    alone, how = each[1], ", by MPS" if variables else ""
    return [
        compared(
            f"{num} resnet20 trials together, {device.type}",
            ALONE,
            each[num],
            alone,
            note=f"{num_images / statistics.median(each[num]):,.0f} images/s in all{how}",
        )
        for num in TOGETHER[1:]
    ]


def trained_together(
    num: int, device: torch.device, num_images: int, num_epochs: int, variables: dict[str, str]
) -> list[float]:
    """Seconds of each epoch, divided by the number of trials."""
    module = [sys.executable, "-m", "benchmarks.one_trial"]
    command = [*module, device.type, str(num_images), str(num_epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    trials = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        for _ in range(num)
    ]
    outputs = [trial.communicate()[0] for trial in trials]
    statuses = [trial.returncode for trial in trials]
    if any(statuses):
        raise RuntimeError(f"{num} trials together on {device.type}: exit statuses {statuses}")
    epochs = [json.loads(output.splitlines()[-1]) for output in outputs]
    return [statistics.fmean(values) / num for values in zip(*epochs, strict=True)]


def on_gpu(measure: partial[list[Row]], name: str, baseline: str, setting: Setting) -> list[Row]:
    """The rows of `measure` on the first GPU, or one that says that there is none."""
    if not torch.cuda.is_available():
        return [Row(name, baseline, note="skipped: needs a CUDA device, and this machine has none")]
    return measure(setting, device=torch.device("cuda", 0))


def epoch_rows(setting: Setting, network: str, device: torch.device) -> list[Row]:
    """The row of one network."""
    return [epoch_row(setting, network, device)]


MEASURES = {
    "epoch resnet20": ("0.5 s", partial(epoch_rows, network="resnet20_1w1a")),
    "epoch resnet18": ("3 s", partial(epoch_rows, network="resnet18_1w1a")),
    "training step resnet18, ImageNet": (f"{UNFUSED}; {FLOAT}", partial(imagenet_rows)),
    "resnet20 trials together": (ALONE, partial(together_rows)),
}
BENCHMARKS = [
    Benchmark(f"{name}, cuda", baseline, partial(on_gpu, measure, f"{name}, cuda", baseline))
    for name, (baseline, measure) in MEASURES.items()
]
