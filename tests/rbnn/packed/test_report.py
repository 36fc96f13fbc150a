"""The report: which differences count as rounding, what it adds up, and what it prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rbnn.packed
from rbnn.packed import latency
from rbnn.packed.parity import Parity, compare
from rbnn.packed.report import lines_of, report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(onnx|openvino)")


def steady(images: Tensor) -> Tensor:
    """A network that no rounding disturbs: the first pixels are its logits."""
    return images[:, 0, 0, :3]


def on_edge(images: Tensor) -> Tensor:
    """A network whose logits jump where a pixel moves by a rounding."""
    return steady(images) + 0.5 * (images[:, 1, 0, :1] > 1.0)


def image_of(logits: list[float]) -> Tensor:
    image = torch.ones(1, 3, 8, 8)
    image[0, 0, 0, :3] = torch.tensor(logits)
    return image


def differing(trained: object, logits: list[float], ours: list[float]) -> Parity:
    batch = (image_of(logits), torch.tensor([0]))
    form = {"form": lambda _: torch.tensor([ours])}
    return compare(trained, form, [batch], 9)["form"]  # type: ignore[arg-type]


def test_equal_predictions_are_counted() -> None:
    found = differing(steady, [3.0, 2.0, 1.0], [3.5, 2.0, 1.0])
    assert (found.num_images, found.differing, found.beyond, found.top1) == (1, 0, 0, 100.0)
    assert found.max_difference == 0.5


def test_close_logits_may_change_places() -> None:
    found = differing(steady, [2.0, 1.99995, 1.0], [1.9, 2.0, 1.0])
    assert (found.differing, found.close, found.beyond) == (1, 1, 0)


def test_logits_further_apart_may_not() -> None:
    found = differing(steady, [2.0, 1.9, 1.0], [1.9, 2.0, 1.0])
    assert (found.differing, found.close, found.rounding, found.beyond) == (1, 0, 0, 1)


def test_but_where_one_rounding_of_the_pixels_moves_them_as_far() -> None:
    found = differing(on_edge, [2.0, 1.9, 1.0], [1.9, 2.0, 1.0])
    assert (found.differing, found.rounding, found.beyond) == (1, 1, 0)


def test_no_more_images_are_compared_than_asked_for() -> None:
    batches = [(torch.ones(4, 3, 8, 8), torch.zeros(4)) for _ in range(3)]
    assert compare(steady, {}, batches, 6)["trained"].num_images == 6


def test_a_package_is_compared_weighed_and_timed(
    package: Path, trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "ROUNDS", 3)
    monkeypatch.setattr(latency, "ROUND_S", 0.0)
    monkeypatch.setattr(latency, "BATCHES", (1,))
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        labels = trained(images).argmax(1)
    found = report(folder, trained, rbnn.packed.load(folder), [(images, labels)], num_images=100)
    assert found.agrees and {parity.num_images for parity in found.parity.values()} == {6}
    assert found.bytes["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert 30 * found.bytes["binary weights"] <= found.bytes["binary weights as float32"]
    assert {row.form for row in found.latency} == {"torch", "onnx", "openvino"}
    assert all(len(row.against_float) == len(row.against_torch) == 3 for row in found.latency)
    written = json.loads((folder / "report.json").read_text())
    assert written["parity"]["openvino"]["beyond"] == 0
    text = "\n".join(lines_of(found))
    assert "6 validation images" in text and "in the same engine" in text
    assert all(len(line) <= 160 for line in text.splitlines())


def test_a_form_that_predicts_otherwise_is_told(
    package: Path, trained: nn.Module, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    other = trained.__class__(10, a32=False, semantics="reference").eval()
    batch = (torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))
    found = report(
        folder, other, rbnn.packed.load(folder), [batch], num_images=16, with_latency=False
    )
    assert not found.agrees and not found.latency
    assert any("beyond it" in line and " 0 beyond" not in line for line in lines_of(found))
