"""The diagnostics of a run by layer and epoch, drawn from the table in its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbnn.diagnostics import LayerRow, read_rows
from rbnn.files import replacing

PLOT = "diagnostics.png"
PANELS = {
    "sin_beta": "|sin β|: 1 rotated, 0 not",
    "cosine": "cosine of mixed weight and its sign",
    "weight_flips": "binary weights changed in the epoch",
    "rotation_gain": "objective after / before the update",
}


def draw_diagnostics(directory: Path) -> None:
    """diagnostics.png in a run's folder, anew: a panel for each quantity, a line for each layer,
    from the first (dark) to the last (bright). Nothing where no layer has a row.

    Lines as one collection and a fixed layout: a sweep draws one for every trial (0.15 s, not 0.6).
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    layers: dict[str, list[LayerRow]] = {}
    for row in read_rows(directory):
        layers.setdefault(row.layer, []).append(row)
    if not layers:
        return
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    num_columns = 1 + len(layers) // 40
    width = 11 + num_columns
    figure = Figure(figsize=(width, 7))
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(0.07, 0.07, 0.97 - 1.4 * num_columns / width, 0.95, 0.2, 0.12)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        lines = [points(of_layer, name) for of_layer in layers.values()]
        axis.add_collection(LineCollection(lines, colors=colours, linewidths=1.2))
        for line, colour in zip(lines, colours, strict=True):
            if len(line) == 1:
                axis.plot(*line[0], "o", color=colour, markersize=4)
        axis.autoscale()
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    handles = [Line2D([], [], color=colour) for colour in colours]
    figure.legend(
        handles, list(layers), loc="upper right", fontsize=7, frameon=False, ncols=num_columns
    )
    with replacing(directory / PLOT) as partial:
        figure.savefig(partial, dpi=100, format="png")


def points(rows: list[LayerRow], name: str) -> NDArray[np.float64]:
    """(N, 2) epoch and value, of the epochs that have one."""
    found = [(row.epoch, getattr(row, name)) for row in rows if getattr(row, name) is not None]
    return np.array(found, dtype=np.float64).reshape(-1, 2)
