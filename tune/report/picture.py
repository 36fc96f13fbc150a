"""The report as one PNG, drawn by matplotlib, which MLflow brings: no browser is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tune.report import figures as of
from tune.report.data import SweepData
from tune.report.figures import BLUE, FIGURES, Panel, Scale, opacity, scales, shade, why_missing

WIDTH, LEFT, RIGHT = 14.0, 0.06, 0.97  # inches; where a row of panels begins and ends, as shares
HEAD, TITLE, FOOT = 0.5, 0.75, 0.7  # inches above all; above and below each row
COLUMNS = 4
MARKERS = {"circle": "o", "circle-open": "o", "cross-open": "P", "x": "x", "diamond-open": "D"}
TITLES = {figure.key: figure.title for figure in FIGURES}


def draw(data: SweepData, file: Path) -> None:
    """All FIGURES, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    small = [("slices", row) for row in _rows(of.slices(data))]
    small += [("diagnostics", row) for row in _rows(of.diagnostics(data))]
    heights = [2.6, 2.6, max(0.3 * len(data.importance), 0.5), *[2.0] * len(small)]
    total = HEAD + sum(heights) + (TITLE + FOOT) * len(heights)
    figure = Figure(figsize=(WIDTH, total))
    FigureCanvasAgg(figure)

    # A fixed layout: matplotlib's own takes longer than all the drawing.
    def place(row: int, left: float, right: float) -> Any:
        bottom = HEAD + sum(heights[: row + 1]) + TITLE * (row + 1) + FOOT * row
        return figure.add_axes((left, 1 - bottom / total, right - left, heights[row] / total))

    _panel(place(0, LEFT, 0.48), of.history(data)[0], "history")
    _panel(place(0, 0.55, RIGHT), of.curves(data)[0], "curves")
    _parallel(place(1, LEFT, RIGHT), scales(data))
    _importance(place(2, 0.13, RIGHT), data)
    width = (RIGHT - LEFT) / COLUMNS
    last = ""
    for number, (key, panels) in enumerate(small, 3):
        for column, panel in enumerate(panels):
            left = LEFT + column * width
            axes = place(number, left, left + 0.72 * width)
            _panel(axes, panel, key if column == 0 and key != last else "")
        last = key
    title = f"{data.name}: {data.recipe['model']} on {data.recipe['dataset']}"
    title += f", {data.table.num_epochs} epochs"
    figure.suptitle(title, y=1 - 0.35 / total, va="center", fontsize=15)
    figure.savefig(file, dpi=90)


def _rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    return [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]


def _panel(axes: Any, panel: Panel, key: str) -> None:
    """key: of the figure that begins here, whose title and legend stand above."""
    for one in panel.series:
        x, y = np.array(one.x, dtype=float), np.array(one.y, dtype=float)
        look: dict[str, Any] = {"label": one.name, "alpha": one.opacity}
        if one.width:
            style = "--" if one.dashed else "-"
            where = {"drawstyle": "steps-post"} if one.step else {}
            axes.plot(x, y, style, color=one.colour, lw=0.8 * one.width, **where, **look)
            look.pop("label")
        if one.mark:
            colours = one.colours or one.colour
            face = {"facecolors": "none", "edgecolors": colours}
            look |= face if one.mark.endswith("open") else {"c": colours}
            size = 24.0 if len(x) <= 200 else 10.0
            axes.scatter(x, y, s=size, marker=MARKERS[one.mark], linewidths=1, **look)
    if panel.log:
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
    if panel.ticks:
        axes.set_xticks(list(panel.ticks), list(panel.ticks.values()))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(xlabel=panel.x, ylabel=panel.y)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if key:
        axes.set_title(TITLES[key], loc="left", pad=22)
    if key and panel.series:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=7, fontsize=8, frameon=False,
            borderaxespad=0.2, columnspacing=1, handlelength=1.5,
        )  # fmt: skip


def _parallel(axes: Any, found: list[Scale]) -> None:
    """Every axis is drawn from 0 to 1; the best trials last, over the others."""
    from matplotlib.collections import LineCollection

    axes.set_title(TITLES["parallel"], loc="left", pad=14)
    axes.set(ylim=(-0.08, 1.08), xlim=(-0.3, len(found) - 0.7), yticks=[])
    axes.set_xticks(range(len(found)), [scale.label for scale in found])
    num_trials = len(found[-1].values)
    if not num_trials:
        return
    heights = []
    for index, scale in enumerate(found):
        low, high = min(scale.values), max(scale.values)
        heights.append([(value - low) / (high - low or 1.0) for value in scale.values])
        axes.axvline(index, color="#666666", lw=0.8)
        for place, text in scale.ticks.items():
            if low <= place <= high:
                height = (place - low) / (high - low or 1.0)
                axes.text(index + 0.01, height, text, va="center", fontsize=8)
    lines = sorted(zip(*heights, strict=True), key=lambda trial: trial[-1])
    colours, alpha = [shade(line[-1]) for line in lines], opacity(num_trials)
    points = [[*enumerate(line)] for line in lines]
    axes.add_collection(LineCollection(points, colors=colours, linewidths=1.1, alpha=alpha))


def _importance(axes: Any, data: SweepData) -> None:
    axes.set_title(f"{TITLES['importance']} (PED-ANOVA)", loc="left")
    if why := why_missing("importance", data):
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    names = list(data.importance)[::-1]
    bars = axes.barh(names, [data.importance[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(xlim=(0, 1.05), xlabel="share, sum 1")
