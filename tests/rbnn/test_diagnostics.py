"""The diagnostics: what the definitions say, by layer and over all; a table without gaps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from rbnn.diagnostics import TABLE, Diagnostics, LayerRow, append_rows, open_table, read_rows
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.models import build


class Two(nn.Module):
    """Two rotated layers of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = RotatedConv2d(4, 6, 3)
        self.second = RotatedConv2d(2, 10, 1)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.rotate.uniform_(-2, 2)


@dataclass
class ByHand:
    """A layer's figures filter by filter, as the definitions stand; objective: the rotation's."""

    sines: list[float]
    cosines: list[float]
    signs: Tensor
    objective: float


def by_hand(layer: RotatedConv2d) -> ByHand:
    found, signs = ByHand([], [], torch.empty(0), 0.0), []
    for w, beta in zip(layer.weight.detach().double(), layer.rotate.detach().double(), strict=True):
        w2 = ((w - w.mean()) / w.std()).reshape(len(layer.R1), len(layer.R2))
        rotated = layer.R1.double().T @ w2 @ layer.R2.double()
        w3 = (w2 + abs(math.sin(beta)) * (rotated - w2)).flatten()
        signs.append(w3.sign())
        found.sines.append(abs(math.sin(beta)))
        found.cosines.append(float(w3 @ signs[-1] / (w3.norm() * signs[-1].norm())))
        found.objective += float(rotated.abs().sum())
    found.signs = torch.cat(signs)
    return found


def test_an_epochs_figures_are_the_definitions() -> None:
    model = Two()
    layers = [model.first, model.second]
    diagnostics = Diagnostics(model)
    before = [by_hand(layer) for layer in layers]
    diagnostics.begin()
    diagnostics.before_update()
    for layer in layers:
        layer.update_rotation()
    diagnostics.after_update()
    rotated = [by_hand(layer).objective for layer in layers]
    with torch.no_grad():
        model.first.weight.add_(0.05 * torch.randn_like(model.first.weight))
    metrics, rows = diagnostics.end(3)
    after = [by_hand(layer) for layer in layers]
    flips = [new.signs != old.signs for new, old in zip(after, before, strict=True)]
    for number, (row, new) in enumerate(zip(rows, after, strict=True)):
        assert (row.epoch, row.layer) == (3, ("first", "second")[number])
        assert row.sin_beta == pytest.approx(fmean(new.sines))
        assert row.cosine == pytest.approx(fmean(new.cosines), rel=1e-5)
        assert row.weight_flips == float(flips[number].double().mean()) > 0
        gain = rotated[number] / before[number].objective
        assert row.rotation_gain == pytest.approx(gain, rel=1e-5) and gain > 1
    assert metrics == {
        "rbnn/sin_beta": pytest.approx(fmean(after[0].sines + after[1].sines)),
        "rbnn/cosine": pytest.approx(fmean(after[0].cosines + after[1].cosines)),
        "rbnn/weight_flips": float(torch.cat(flips).double().mean()),
        "rbnn/rotation_gain": pytest.approx(
            sum(rotated) / sum(old.objective for old in before), rel=1e-5
        ),
    }


def test_an_epoch_is_compared_with_the_one_before_and_needs_no_update() -> None:
    model = Two()
    diagnostics = Diagnostics(model)
    diagnostics.begin()
    diagnostics.end(0)
    model.first.update_rotation()
    diagnostics.begin()
    metrics, rows = diagnostics.end(1)
    assert "rbnn/rotation_gain" not in metrics and rows[0].rotation_gain is None
    assert rows[0].weight_flips > 0 == rows[1].weight_flips


def test_what_an_epoch_began_with_survives_in_a_bit_per_weight() -> None:
    model = build("resnet20_1w1a", "digits")
    diagnostics, other = Diagnostics(model), Diagnostics(model)
    diagnostics.begin()
    diagnostics.before_update()
    for layer in rotated_layers(model).values():
        layer.update_rotation(1)
    diagnostics.after_update()
    state = diagnostics.state()
    num_weights = sum(layer.weight.numel() for layer in rotated_layers(model).values())
    assert 8 * sum(part.numel() for part in state["signs"].values()) == num_weights
    other.restore(state)
    assert other.end(0) == diagnostics.end(0)


def test_a_network_without_rotated_layers_has_no_figures() -> None:
    diagnostics = Diagnostics(nn.Linear(2, 2))
    diagnostics.begin()
    assert diagnostics.end(0) == ({}, [])


def test_the_table_of_a_resumed_run_has_no_gaps_and_no_doubles(tmp_path: Path) -> None:
    rows = [
        LayerRow(epoch, name, 0.125 * epoch, 0.5, 0.25, None if epoch % 2 else 1.5)
        for epoch in range(4)
        for name in "ab"
    ]
    open_table(tmp_path)
    append_rows(tmp_path, rows)
    assert read_rows(tmp_path) == rows
    text = (tmp_path / TABLE).read_text()
    assert text.startswith("epoch,layer,sin_beta,cosine,weight_flips,rotation_gain\n")
    (tmp_path / TABLE).write_text(text + "1,a,0.7,0.")  # a kill cut this short
    open_table(tmp_path, tmp_path, 2)
    assert read_rows(tmp_path) == rows[:4]
    append_rows(tmp_path, rows[4:])
    assert (tmp_path / TABLE).read_text() == text
    open_table(tmp_path / "new", tmp_path, 1)
    assert read_rows(tmp_path / "new") == rows[:2]
    open_table(tmp_path)
    assert read_rows(tmp_path) == [] == read_rows(tmp_path / "none")
