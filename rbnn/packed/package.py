"""Makes a package of a trained network: its weights, its ONNX and OpenVINO forms, and last the
config.json that names them.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rbnn.errors import RequestError
from rbnn.packed import onnx, openvino
from rbnn.packed.engines import BIN, ONNX, XML
from rbnn.packed.extra import needed
from rbnn.packed.fold import fold
from rbnn.packed.weights import CONFIG, WEIGHTS, Config, evaluated, load, save, write_config
from rbnn.recipe import Recipe

EXTRA = ("safetensors", "onnx", "onnxruntime", "openvino")


def make(model: nn.Module, recipe: Recipe, folder: Path, *, half: bool = False) -> nn.Module:
    """Package `model`, the recipe's network with its trained weights, into `folder`; returns it as
    `load` gives it.

    half: the first and the last layer in float16. Replaces an earlier package in that folder.
    Raises RequestError where the folder holds anything else, an extra is not installed, or the
    network cannot be packed.
    """
    for name in EXTRA:
        needed(name)
    open_folder(folder)
    (folder / CONFIG).unlink(missing_ok=True)
    config = Config(evaluated(recipe), half)
    save(folder, fold(model), config)
    write_config(folder, config, [WEIGHTS])
    packed = load(folder)
    spec = config.image_size, config.num_classes
    (folder / ONNX).write_bytes(onnx.network(packed, *spec).SerializeToString())
    needed("openvino").serialize(openvino.network(packed, spec[0]), folder / XML, folder / BIN)
    write_config(folder, config, [WEIGHTS, ONNX, XML, BIN])
    return packed


def open_folder(folder: Path) -> None:
    """Make the folder; RequestError where that fails, or it holds something, and no package."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir()) and not (folder / CONFIG).is_file()
    except OSError as error:
        raise RequestError(
            f"--out '{folder}' cannot be written: {error.strerror}; name another folder"
        ) from None
    if taken:
        raise RequestError(f"--out '{folder}' holds other files; name a new folder, or a package's")
