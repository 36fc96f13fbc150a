"""Packages: a network's inference in each engine beside the float network of the same shape, one
image on one thread; and the bytes of its file.
"""

from __future__ import annotations

import statistics
from functools import partial

import torch

from benchmarks.measure import Benchmark, Row, Setting
from benchmarks.networks import FLOAT
from rbnn.datasets import dataset_spec
from rbnn.hardware import prepare_process
from rbnn.models import build
from rbnn.packed.fold import float_twin, fold
from rbnn.packed.latency import Latency, measure
from rbnn.packed.weights import Config, save
from rbnn.recipe import Recipe

IN_TORCH = f"{FLOAT}, torch, batch normalisation folded"
IN_ENGINE = f"{FLOAT}, same engine, batch normalisation folded"
NEEDS = ("onnx", "onnxruntime", "openvino", "safetensors")


def packed_rows(setting: Setting, model: str, dataset: str, a32: bool = False) -> list[Row]:
    """Each engine against torch's float network and against its own, and the file's bytes."""
    recipe = Recipe(dataset=dataset, model=model, a32=a32, gpus="none")
    prepare_process(recipe, torch.device("cpu"))
    torch.manual_seed(1234)
    trained = build(model, dataset, a32).eval()
    packed, twin = fold(trained), fold(float_twin(trained))
    name = f"package {model.split('_1w1a')[0]} {dataset}" + " a32" * a32
    path = save(setting.folder, packed, Config(recipe.to_dict()))
    ours, theirs = path.stat().st_size, sum(t.nbytes for t in trained.state_dict().values())
    rows = [Row(f"{name}, file", "the checkpoint's weights", (ours / theirs,), ours, theirs, "B")]
    spec = dataset_spec(dataset)
    shape = spec.image_size, spec.num_classes
    for found in measure(packed, twin, *shape, batches=(1,), threads=(1,)):
        rows += _latency_rows(f"{name}, {found.form}", found)
    return rows


def _latency_rows(name: str, found: Latency) -> list[Row]:
    torchs_ms = found.packed_ms * statistics.median(found.against_torch)
    baselines = {
        IN_TORCH: (found.against_torch, torchs_ms),
        IN_ENGINE: (found.against_float, found.float_ms),
    }
    if found.form == "torch":
        del baselines[IN_ENGINE]
    return [
        Row(name, baseline, tuple(1 / times for times in faster), found.packed_ms, theirs, "ms")
        for baseline, (faster, theirs) in baselines.items()
    ]


def _benchmark(model: str, dataset: str, *, a32: bool = False, full_only: bool = True) -> Benchmark:
    name = f"package {model.split('_1w1a')[0]} {dataset}" + " a32" * a32
    run = partial(packed_rows, model=model, dataset=dataset, a32=a32)
    return Benchmark(name, IN_TORCH, run, NEEDS, full_only)


BENCHMARKS = [
    _benchmark("resnet20_1w1a", "cifar10", full_only=False),
    _benchmark("resnet18_1w1a", "cifar10", full_only=False),
    _benchmark("resnet20_bireal_1w1a", "cifar10"),
    _benchmark("vgg_small_1w1a", "cifar10"),
    _benchmark("resnet18_1w1a", "imagenet"),
    _benchmark("resnet34_1w1a", "imagenet"),
    _benchmark("resnet18_1w1a", "cifar10", a32=True),
]
