"""How long each form of a package takes, beside the float network of the same shape in the same
engine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rbnn.hardware import num_cores
from rbnn.packed import onnx, openvino
from rbnn.packed.engines import Run, run_onnx, run_openvino, run_torch

BATCHES = (1, 64)
ROUNDS, FEWEST_ROUNDS = 9, 3
ROUND_S, SETTING_S = 0.02, 6.0  # a figure of a round takes at least the one; all rounds the other


@dataclass(frozen=True)
class Latency:
    """One form, batch size and number of threads. packed_ms, float_ms: a batch, median over rounds.
    Ratios by round, above 1 where the package is faster: against_float than the float network in
    the same engine, against_torch than the float network in torch.
    """

    form: str
    batch: int
    threads: int
    packed_ms: float
    float_ms: float
    against_float: tuple[float, ...]
    against_torch: tuple[float, ...]


def measure(
    packed: nn.Module,
    twin: nn.Module,
    image_size: int,
    num_classes: int,
    *,
    batches: tuple[int, ...] = (),
    threads: tuple[int, ...] = (),
) -> Iterator[Latency]:
    """Every form on one thread and on all; `twin`: the folded float network of the same shape."""
    for num in threads or sorted({1, num_cores()}):
        runs: dict[str, Run] = {}
        for kind, model in (("packed", packed), ("float", twin)):
            content = onnx.network(model, image_size, num_classes).SerializeToString()
            runs[f"torch {kind}"] = run_torch(model)
            runs[f"onnx {kind}"] = run_onnx(content, num)
            runs[f"openvino {kind}"] = run_openvino(openvino.network(model, image_size), num)
        for batch in batches or BATCHES:
            images = torch.randn(batch, 3, image_size, image_size)
            with torch_threads(num):
                seconds = in_turn(runs, images)
            yield from _rows(seconds, batch, num)


def _rows(seconds: dict[str, list[float]], batch: int, threads: int) -> Iterator[Latency]:
    for form in ("torch", "onnx", "openvino"):
        ours, theirs = seconds[f"{form} packed"], seconds[f"{form} float"]
        yield Latency(
            form, batch, threads,
            1000 * statistics.median(ours), 1000 * statistics.median(theirs),
            _ratios(theirs, ours), _ratios(seconds["torch float"], ours),
        )  # fmt: skip


def _ratios(theirs: list[float], ours: list[float]) -> tuple[float, ...]:
    return tuple(their / our for their, our in zip(theirs, ours, strict=True))


def in_turn(runs: dict[str, Run], images: Tensor) -> dict[str, list[float]]:
    """Seconds a call by round, the runs taking turns; each is called twice beforehand."""
    began = time.perf_counter()
    repeats = {}
    for name, run in runs.items():
        run(images)
        repeats[name] = max(1, round(ROUND_S / _seconds(run, images, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for finished in range(ROUNDS):
        if finished >= FEWEST_ROUNDS and time.perf_counter() - began > SETTING_S:
            break
        for name, run in runs.items():
            seconds[name].append(_seconds(run, images, repeats[name]))
    return seconds


def _seconds(run: Run, images: Tensor, repeats: int) -> float:
    """The fastest of the calls: what else the machine does only adds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Within it, torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
