"""What the method does to the weights, by layer and epoch: as metrics of the run, and as a table in
its folder.

sin_beta       |sin beta|, mean over filters: 1 where a filter is its rotation, 0 where it is itself
               (paper eq. 10)
cosine         of the angle between the mixed latent weight w3 and sign(w3), mean over filters:
               what binarisation keeps of the direction (paper section 3.1, the angular bias)
weight_flips   share of the binary weights that the epoch changed, its rotation update included
rotation_gain  sum |R1^T X R2| after the rotation update over before it (eq. 7); only in
               epochs that have one

All of it costs two products per layer and update, and one mixed weight per layer and epoch; the
host reads once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbnn.files import write_atomically
from rbnn.graphs import Captured
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.weights import by_shape, mixed_weights, objectives, on_gpu

TABLE = "diagnostics.csv"


@dataclass(frozen=True)
class LayerRow:
    """One layer in one epoch; rotation_gain is None without an update."""

    epoch: int
    layer: str
    sin_beta: float
    cosine: float
    weight_flips: float
    rotation_gain: float | None

    def line(self) -> str:
        """As a line of the table."""
        return ",".join(
            "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
            for value in astuple(self)
        )


HEADER = ",".join(field.name for field in fields(LayerRow))


class Diagnostics:
    """Watches the rotated layers of a network through an epoch: `begin`, `before_update`,
    `after_update`, `end`.

    signs: where the binary weights of all layers, end to end, were +1 when the epoch began.
    objectives: (2, layers), before and after. captures: measure in graphs, on a GPU.
    """

    def __init__(self, model: nn.Module, captures: bool = False) -> None:
        self.layers = rotated_layers(model)
        self.signs: Tensor | None = None
        self.objectives: Tensor | None = None
        self.sizes = [layer.weight.numel() for layer in self.layers.values()]
        self._objectives: Callable[[], Tensor] = partial(objectives, [*self.layers.values()])
        self._measured: Callable[[Tensor], tuple[Tensor, Tensor]] = self._measure
        if captures:
            self._objectives, self._measured = Captured(self._objectives), Captured(self._measure)

    @torch.no_grad()
    def begin(self) -> None:
        """Note the binary weights; those at the end of the last epoch are known already."""
        self.objectives = None
        if self.signs is None and self.layers:
            self.signs = signs_of(mixed_weights([*self.layers.values()]))

    def before_update(self) -> None:
        """Note the objective of every layer; `after_update` must follow."""
        self.objectives = self._objectives()[None].clone()

    def after_update(self) -> None:
        """Note what the rotation update made of it."""
        assert self.objectives is not None
        self.objectives = torch.cat([self.objectives, self._objectives()[None]])

    @torch.no_grad()
    def _measure(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        """By layer: sums of |sin beta| and of the cosines, number of signs that changed (layers, 3)
        float64; the signs now.
        """
        layers = [*self.layers.values()]
        weights = mixed_weights(layers)
        now = signs_of(weights)
        changed = (now != signs).split(self.sizes)
        own = dict(zip(layers, zip(weights, changed, strict=True), strict=True))
        found: dict[RotatedConv2d, Tensor] = {}
        for group in by_shape(layers) if on_gpu(layers) else [[layer] for layer in layers]:
            w3 = _stacked([own[layer][0] for layer in group]).flatten(2)
            norms = torch.linalg.vector_norm(w3, dim=2).clamp_min(torch.finfo(w3.dtype).tiny)
            cosine = w3.abs().sum(2) / (norms * math.sqrt(w3.shape[2]))
            sin_beta = _stacked([layer.rotate for layer in group]).flatten(1).sin().abs()
            flips = _stacked([own[layer][1] for layer in group])
            sums = [values.sum(1).double() for values in (sin_beta, cosine, flips)]
            found.update(zip(group, torch.stack(sums, 1), strict=True))
        return torch.stack([found[layer] for layer in layers]), now

    def end(self, epoch: int) -> tuple[dict[str, float], list[LayerRow]]:
        """(metrics `rbnn/...`, one row per layer) of the epoch; its last binary weights become the
        next one's first.

        The metrics are over all filters or weights together; rotation_gain is the ratio of the sums
        over all layers.
        """
        if self.signs is None:
            return {}, []
        measured, now = self._measured(self.signs)
        self.signs = now.clone()
        if self.objectives is not None:
            measured = torch.cat([measured, self.objectives.T.double()], 1)
        sums = measured.cpu().numpy()
        per_filter = np.array([len(layer.weight) for layer in self.layers.values()], np.float64)
        per_weight = np.array(self.sizes, np.float64)
        rows = [
            LayerRow(epoch, name, *_shares(row, filters, weights))
            for name, row, filters, weights in zip(
                self.layers, sums, per_filter, per_weight, strict=True
            )
        ]
        whole = LayerRow(epoch, "", *_shares(sums.sum(0), per_filter.sum(), per_weight.sum()))
        names = ("sin_beta", "cosine", "weight_flips", "rotation_gain")
        values = {f"rbnn/{name}": getattr(whole, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}, rows

    def state(self) -> dict[str, Any]:
        """What a continuation in the middle of an epoch needs: plain tensors, a bit per binary
        weight.
        """
        parts = () if self.signs is None else self.signs.cpu().split(self.sizes)
        packed = [torch.from_numpy(np.packbits(part.numpy())) for part in parts]
        return {"signs": dict(zip(self.layers, packed, strict=True)), "objectives": self.objectives}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        if not self.layers:
            return
        device = next(iter(self.layers.values())).weight.device
        bits = [
            np.unpackbits(state["signs"][name].numpy(), count=size)
            for name, size in zip(self.layers, self.sizes, strict=True)
        ]
        self.signs = torch.from_numpy(np.concatenate(bits)).bool().to(device)
        noted = state["objectives"]
        self.objectives = None if noted is None else noted.to(device)


def signs_of(weights: Sequence[Tensor]) -> Tensor:
    """Where weights are 0 or more, end to end, bool."""
    return torch.cat([(weight >= 0).flatten() for weight in weights])


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """torch.stack, of one tensor without a copy."""
    return torch.stack([*tensors]) if len(tensors) > 1 else tensors[0][None]


def _shares(
    sums: np.ndarray, num_filters: float, num_weights: float
) -> tuple[float, float, float, float | None]:
    gain = float(sums[4] / sums[3]) if len(sums) > 3 else None
    return (
        float(sums[0] / num_filters),
        float(sums[1] / num_filters),
        float(sums[2] / num_weights),
        gain,
    )


def open_table(directory: Path, earlier: Path | None = None, epoch: int = 0) -> None:
    """Begin the table in `directory` with the rows of the table `earlier` (a folder's) before
    `epoch`, or with none.

    A line that a kill cut short is left out with its epoch, which the run repeats.
    """
    source = earlier / TABLE if earlier else None
    text = source.read_text("utf-8") if source and source.is_file() else ""
    lines = text.splitlines(keepends=True)[1:]
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == HEADER.count(",")]
    kept = [line for line in whole if int(line.partition(",")[0]) < epoch]
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / TABLE, "".join([HEADER, "\n", *kept]))


def append_rows(directory: Path, rows: list[LayerRow]) -> None:
    """Add an epoch's rows to the table."""
    with (directory / TABLE).open("a", encoding="utf-8") as table:
        table.write("".join(f"{row.line()}\n" for row in rows))


def read_rows(directory: Path) -> list[LayerRow]:
    """The table of a run's folder; empty where there is none."""
    path = directory / TABLE
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines()[1:]:
        epoch, layer, sin_beta, cosine, flips, gain = line.split(",")
        rows.append(
            LayerRow(
                int(epoch),
                layer,
                float(sin_beta),
                float(cosine),
                float(flips),
                float(gain) if gain else None,
            )
        )
    return rows
