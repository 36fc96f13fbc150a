"""A package run by any of its three engines: images in, logits out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.data.loading import Batch
from rbnn.errors import RequestError
from rbnn.metrics import Counts, counted
from rbnn.packed.extra import needed
from rbnn.packed.weights import checked, damaged, load, read_config

Run = Callable[[Tensor], Tensor]  # images (N, 3, S, S) float32 -> logits (N, C) float32
ONNX, XML, BIN = "model.onnx", "model.xml", "model.bin"
FILES = {"torch": ["model.safetensors"], "onnx": [ONNX], "openvino": [XML, BIN]}


def open_engine(folder: Path, engine: str, num_threads: int = 0) -> Run:
    """A package's form of that engine; num_threads: 0 as many as there are cores.

    Raises CheckpointError, one line, for files that are missing, damaged or refused.
    """
    config = read_config(folder)
    if engine == "torch":
        return run_torch(load(folder))
    paths = [checked(folder, name, config) for name in FILES[engine]]
    try:
        if engine == "onnx":
            return run_onnx(paths[0].read_bytes(), num_threads)
        model = openvino_core().read_model(paths[0], paths[1])
        return run_openvino(model, num_threads)
    except RequestError:
        raise
    except Exception as error:  # the engines' own kinds, none of which they document
        raise damaged(paths[0], f"is refused by {engine} ({str(error).splitlines()[0]})") from None


def run_torch(model: nn.Module) -> Run:
    """A torch module without gradients."""

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def run_onnx(content: bytes, num_threads: int = 0) -> Run:
    """An ONNX model in onnxruntime, on the CPU."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others take turns
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])

    return run


@functools.cache
def openvino_core() -> Any:
    """The process's only one. Each has a signal stack, and of two that end in another order than
    they began, the later puts back a stack that is unmapped: the next signal ends the process.
    """
    return needed("openvino").Core()


def run_openvino(model: Any, num_threads: int = 0) -> Run:
    """An OpenVINO model on the CPU, compiled for the first batch's size; smaller ones are filled
    up, larger ones compile it again.
    """
    core = openvino_core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    options |= {"INFERENCE_NUM_THREADS": num_threads} if num_threads else {}
    requests: dict[int, Any] = {}

    def run(images: Tensor) -> Tensor:
        size = min((size for size in requests if size >= len(images)), default=len(images))
        if size not in requests:
            model.reshape([size, *images.shape[1:]])
            requests[size] = core.compile_model(model, "CPU", options).create_infer_request()
        filled = F.pad(images, (0, 0, 0, 0, 0, 0, 0, size - len(images))).contiguous()
        logits = requests[size].infer([filled.numpy()], share_inputs=True)[0]
        return torch.from_numpy(logits)[: len(images)].clone()

    return run


def evaluate(run: Run, batches: Any) -> dict[str, float]:
    """val/loss, val/top1, val/top5 (percent) over (images, labels) batches."""
    counts = Counts(torch.device("cpu"))
    batch: Batch
    for batch in batches:
        counts.sums += counted(run(batch[0]), batch[1])
    return counts.metrics("val")
