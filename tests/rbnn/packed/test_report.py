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
from rbnn.packed.layers import BinaryConv2d
from rbnn.packed.package import make
from rbnn.packed.parity import compare
from rbnn.packed.report import lines_of, report
from tests.rbnn.packed.conftest import RECIPE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(onnx|openvino)")

LOGITS = [2.0, 1.0, 0.0]


class Edge(nn.Module):
    """One sign, whose input lies `distance` below its threshold, moves the first logit by 0.5."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = distance
        self.conv = BinaryConv2d(1, 1, 1, 1, 0, a32=False)
        self.conv.set_weight(torch.ones(1, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        row = torch.tensor([1.0, -self.distance, self.distance - 1.0])
        signs = self.conv(row.expand(len(images), 1, 1, 3))
        return torch.tensor(LOGITS) + 0.25 * signs[:, 0, 0, 1:2] * torch.tensor([1.0, 0, 0])


@pytest.mark.parametrize(
    ("distance", "trained", "packed", "expected"),
    [
        (0.3, [3.0, 2.0, 1.0], [3.5, 2.0, 1.0], {"top1": 100.0}),
        # Close logits may change places, those further apart may not,
        (0.3, [2.0, 1.99995, 1.0], [1.9, 2.0, 1.0], {"differing": 1, "close": 1}),
        (0.3, [2.0, 1.9, 1.0], [1.9, 2.0, 1.0], {"differing": 1, "beyond": 1}),
        # but where a sign within rounding of its threshold moves them as far.
        (1e-7, [2.0, 1.9, 1.0], [1.9, 2.0, 1.0], {"differing": 1, "rounding": 1}),
    ],
)
def test_what_of_a_difference_is_rounding(
    distance: float, trained: list[float], packed: list[float], expected: dict[str, float]
) -> None:
    batch = (torch.ones(1, 3, 8, 8), torch.tensor([0]))
    runs = {"trained": lambda _: torch.tensor([trained]), "form": lambda _: torch.tensor([packed])}
    found = compare(runs, "trained", Edge(distance), [batch], 9)["form"]
    furthest = max(abs(one - other) for one, other in zip(trained, packed, strict=True))
    assert found.max_difference == pytest.approx(furthest)
    none = {"num_images": 1, "differing": 0, "close": 0, "rounding": 0, "beyond": 0, "top1": 0.0}
    assert {name: getattr(found, name) for name in none} == none | expected


def test_no_more_images_are_compared_than_asked_for() -> None:
    batches = [(torch.ones(4, 3, 8, 8), torch.zeros(4)) for _ in range(3)]
    runs = {"trained": lambda images: images[:, 0, 0]}
    assert compare(runs, "trained", Edge(0.3), batches, 6)["trained"].num_images == 6


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


def test_the_reference_of_float16_is_its_torch_form(trained: nn.Module, tmp_path: Path) -> None:
    packed = make(trained, RECIPE, tmp_path / "half", half=True)
    batch = (torch.randn(6, 3, 32, 32), torch.zeros(6, dtype=torch.long))
    found = report(tmp_path / "half", trained, packed, [batch], num_images=6, with_latency=False)
    assert found.agrees
    assert found.parity["torch"].max_difference == 0 < found.parity["trained"].max_difference


def test_a_form_that_differs_is_told(package: Path, trained: nn.Module, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    other = trained.__class__(10, a32=False, semantics="reference").eval()
    batch = (torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))
    packed = rbnn.packed.load(folder)
    found = report(folder, other, packed, [batch], num_images=8, with_latency=False)
    assert not found.agrees and not found.latency
    assert any("beyond it" in line and " 0 beyond" not in line for line in lines_of(found))
