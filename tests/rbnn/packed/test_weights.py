"""A package's files: every bit comes back, and no damaged or foreign file passes or runs code."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rbnn.packed
from rbnn.errors import CheckpointError, RequestError
from rbnn.packed import weights
from rbnn.packed.engines import open_engine
from rbnn.packed.extra import needed
from rbnn.packed.fold import fold
from rbnn.packed.package import make
from tests.rbnn.packed.conftest import RECIPE

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package to damage."""
    return Path(shutil.copytree(package, tmp_path / "copy"))


def vouched(folder: Path) -> None:
    """Let config.json agree with what the files now are, as an attacker would."""
    config = weights.read_config(folder)
    weights.write_config(folder, config, list(config.files))


def test_what_was_packed_is_what_is_loaded(package: Path, trained: nn.Module) -> None:
    loaded, packed = rbnn.packed.load(package), fold(trained)
    assert torch.equal(loaded(IMAGES), packed(IMAGES))
    for name, tensor in packed.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_resnet18_takes_a_twentieth(network: Callable[..., nn.Module], tmp_path: Path) -> None:
    model = network("resnet18_1w1a", "cifar10")
    path = weights.save(tmp_path, fold(model), weights.Config({"dataset": "cifar10"}))
    assert 20 * path.stat().st_size < sum(t.nbytes for t in model.state_dict().values())


def test_float16_is_for_the_first_and_last_layer(trained: nn.Module, tmp_path: Path) -> None:
    half = make(trained, RECIPE, tmp_path / "half", half=True).state_dict()
    for name, tensor in fold(trained).state_dict().items():
        rounded = tensor.half().float() if name in ("conv1.weight", "linear.weight") else tensor
        assert torch.equal(half[name], rounded), name


def test_values_that_float16_cannot_hold_are_refused(trained: nn.Module, tmp_path: Path) -> None:
    packed = fold(trained)
    packed.get_parameter("linear.weight").fill_(1e6)
    told = r"'linear.weight' has values that are not finite as torch.float16"
    with pytest.raises(RequestError, match=told):
        weights.save(tmp_path, packed, weights.Config({"dataset": "digits"}, half=True))


class Payload:
    """A pickle that leaves a file behind where it is executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


FORMS = {
    "model.safetensors": "torch",
    "model.onnx": "onnx",
    "model.xml": "openvino",
    "model.bin": "openvino",
}
DAMAGE: dict[str, Callable[[bytes, Path], bytes]] = {
    "cut": lambda content, _: content[: len(content) // 2],
    "empty": lambda content, _: b"",
    "pickled": lambda content, trace: pickle.dumps(Payload(trace)).ljust(len(content), b"\0"),
    "bit flipped": lambda content, _: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
}


def refused_in_one_line(folder: Path, engine: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        open_engine(folder, engine)(IMAGES)
    assert "model." in str(refused.value) and "\n" not in str(refused.value)
    assert not (folder.parent / "executed").exists()


# Not a flipped bit, nor openvino's numbers: of those, config.json alone can tell.
VOUCHED = itertools.product([*FORMS][:3], [*DAMAGE][:3], [True])


@pytest.mark.parametrize(
    ("name", "damage", "is_vouched"), [*itertools.product(FORMS, DAMAGE, [False]), *VOUCHED]
)
def test_a_damaged_file_is_refused_in_one_line(
    name: str, damage: str, is_vouched: bool, copy: Path
) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(DAMAGE[damage](content, copy.parent / "executed"))
    if is_vouched:
        vouched(copy)
    refused_in_one_line(copy, FORMS[name])


@pytest.mark.parametrize("name", FORMS)
def test_a_huge_file_is_refused_before_it_is_read(name: str, copy: Path) -> None:
    num_bytes = 1 << 40
    try:
        os.truncate(copy / name, num_bytes)
    except OSError as error:
        pytest.skip(f"this file system holds no file of a tebibyte: {error}")
    config = json.loads((copy / "config.json").read_text())
    config["files"][name]["bytes"] = num_bytes
    (copy / "config.json").write_text(json.dumps(config))
    refused_in_one_line(copy, FORMS[name])


def header_of(content: dict[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


HUGE = {"conv1.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}


SMALL = {"x": {"dtype": "U8", "shape": [50_000], "data_offsets": [0, 50_000]}}
BEHIND = bytes(50_000)


@pytest.mark.parametrize(
    "content",
    [
        header_of(HUGE),
        header_of(HUGE) + BEHIND,
        struct.pack("<Q", 1 << 62) + BEHIND,
        header_of(SMALL) + BEHIND,
    ],
)
def test_other_tensors_are_refused_before_they_are_made(content: bytes, copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(content)
    vouched(copy)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"model.safetensors' (has|is)"):
        rbnn.packed.load(copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(BEHIND)


def test_a_larger_network_allocates_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["recipe"] |= {"model": "resnet34_1w1a", "dataset": "imagenet"}
    (copy / "config.json").write_text(json.dumps(config))

    read = needed("safetensors")
    monkeypatch.setattr(read, "safe_open", lambda *_, **__: pytest.fail("a tensor was read"))
    with pytest.raises(CheckpointError, match="where the network takes"):
        rbnn.packed.load(copy)


FORMAT: dict[str, Any] = {"format": "rbnn-package", "version": 2}
WHOLE = {**FORMAT, "half": False, "files": {}, "recipe": {}}
UNKNOWN = {"dataset": "digits", "model": "__import__"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 60_000, "is not JSON"),
        (" " * (1 << 17), "more than 65536"),
        ("[]", "is not of format"),
        (json.dumps({**FORMAT, "version": 9}), "has version 9"),
        (json.dumps(FORMAT), "lacks its recipe"),
        (json.dumps({**WHOLE, "recipe": UNKNOWN}), "holds no recipe that is known here"),
        (json.dumps(WHOLE), "holds no model.safetensors"),
    ],
    ids=[0, 1, 2, 3, 4, 5, 6, 7],
)
def test_a_foreign_config_is_refused_in_one_line(text: str, message: str, copy: Path) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as refused:
        rbnn.packed.load(copy)
    assert "\n" not in str(refused.value)


def test_values_that_are_not_finite_are_refused(copy: Path) -> None:
    library = needed("safetensors.torch")
    tensors = library.load_file(copy / "model.safetensors")
    tensors["linear.bias"].fill_(float("nan"))
    (copy / "model.safetensors").write_bytes(library.save(tensors))
    vouched(copy)
    with pytest.raises(CheckpointError, match="not finite"):
        rbnn.packed.load(copy)


def test_without_the_extra_one_line_says_what_to_install(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RequestError, match=r"^openvino is not installed.*rbnn-tune\[deploy\]"):
        make(trained, RECIPE, tmp_path / "package")
    assert not (tmp_path / "package").exists()
