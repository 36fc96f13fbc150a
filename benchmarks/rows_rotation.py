"""The rotation update of a whole network, and how much of the machine's matrix-product rate its
products reach.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.baseline import UnfusedConv2d
from benchmarks.measure import Benchmark, Row, Setting, alternate, compared
from benchmarks.networks import networks
from rbnn.graphs import Captured
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.weights import update_rotations

BASELINE = "a loop over filters, one thread"
GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
ROUNDS_OF_UPDATE = 3


def num_operations(layer: RotatedConv2d) -> int:
    """Floating-point operations of an update's matrix products as `rotation.bi_rotation_update`
    makes them, no SVD.

    O filters of a x b. In each round X R2, R1^T of it, the sum D1, R1^T X, and the sum D2.
    """
    num_filters, a, b = layer.out_channels, len(layer.R1), len(layer.R2)
    by_a, by_b = 2 * num_filters * a * a * b, 2 * num_filters * a * b * b
    return ROUNDS_OF_UPDATE * (by_b + by_a + by_a + by_a + by_b)


def unfused_update(model: nn.Module) -> None:
    """The baseline's update of every layer."""
    for module in model.modules():
        if isinstance(module, UnfusedConv2d):
            module.update_rotation()


def rotation_rows(setting: Setting, network: str) -> list[Row]:
    """Seconds for all layers of a network, on a CPU on as many threads as a run has; in the full
    form also on one.

    The loop always has one thread, which suits it best: waking a second one for each of its small
    products makes it 2 to 10 times slower.
    """
    rows = []
    for device in setting.devices:
        models = networks(network, device, ("rbnn", "unfused"))
        on_cpu, of_run = device.type == "cpu", torch.get_num_threads()
        for threads in sorted({1, of_run} if on_cpu and setting.full else {of_run}):
            where = (
                f"{device.type}, {threads} thread{'s' * (threads > 1)}" if on_cpu else device.type
            )
            rows.append(
                rotation_row(
                    setting, f"rotation update {network}, {where}", models, device, threads
                )
            )
        torch.set_num_threads(of_run)
    return rows


def on_threads(num_threads: int, action: Callable[[], object]) -> None:
    """The action on so many CPU threads."""
    torch.set_num_threads(num_threads)
    action()


def rotation_row(
    setting: Setting,
    name: str,
    models: dict[str, nn.Module],
    device: torch.device,
    num_threads: int,
) -> Row:
    """The row of one network on one device, with a plain matrix product in every round
    beside them.
    """
    update: Callable[[], None] = partial(
        update_rotations, [*rotated_layers(models["rbnn"]).values()]
    )
    if device.type == "cuda":
        update = Captured(update)
    size = GEMM_SIZE[device.type]
    square = torch.randn(size, size, device=device)
    seconds = alternate(
        {
            "rbnn": partial(on_threads, num_threads, update),
            "gemm": partial(on_threads, num_threads, partial(torch.mm, square, square)),
            "unfused": partial(on_threads, 1, partial(unfused_update, models["unfused"])),
        },
        setting.rounds,
        device=device,
    )
    operations = sum(
        num_operations(layer)
        for layer in models["rbnn"].modules()
        if isinstance(layer, RotatedConv2d)
    )
    gemm_rate = 2 * size**3 / min(seconds["gemm"])
    share = operations / min(seconds["rbnn"]) / gemm_rate
    note = (
        f"its products alone: {100 * share:.0f} % of the {gemm_rate / 1e9:.0f} GFLOP/s of a "
        f"{size}^3 product"
    )
    return compared(name, BASELINE, seconds["rbnn"], seconds["unfused"], note=note)


BENCHMARKS = [
    Benchmark(
        "rotation update resnet20", BASELINE, partial(rotation_rows, network="resnet20_1w1a")
    ),
    Benchmark(
        "rotation update resnet18", BASELINE, partial(rotation_rows, network="resnet18_1w1a")
    ),
]
