"""The report as one PNG, drawn by matplotlib, which MLflow brings: no browser is needed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tune.board import METRIC, shown
from tune.report.figures import BLUE, GREEN, GREY, ORANGE, RED
from tune.report.gather import Curve, SweepData

SCORE = f"{METRIC} (%)"


def draw(data: SweepData, file: Path) -> None:
    """History and learning curves, parallel coordinates, importance and a slice of each option."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num = len(data.axes)
    figure = Figure(figsize=(14, 14), layout=None)
    FigureCanvasAgg(figure)

    # A fixed layout: matplotlib's own takes longer than all the drawing.
    def place(left: float, bottom: float, width: float, height: float, **more: Any) -> Any:
        return figure.add_axes((left, bottom, width, height), **more)

    _history(place(0.06, 0.74, 0.41, 0.2), data)
    _curves(place(0.55, 0.74, 0.42, 0.2), data)
    _parallel(place(0.06, 0.48, 0.91, 0.19), data)
    _importance(place(0.13, 0.3, 0.84, 0.11), data)
    width = 0.91 / num
    shared = None
    for index in range(num):
        shared = axes = place(0.06 + index * width, 0.06, 0.85 * width, 0.17, sharey=shared)
        _slice(axes, data, index)
    figure.suptitle(
        y=0.985, t=f"{data.name}: {data.recipe['model']} on {data.recipe['dataset']}, {data.num_epochs} epochs", fontsize=15
    )
    figure.savefig(file, dpi=90)


def _head(axes: Any, title: str) -> None:
    """Title, and the legend between it and the figure, where it covers nothing."""
    axes.set_title(title, pad=22)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, borderaxespad=0.2, columnspacing=1
        )


def _default(axes: Any, data: SweepData) -> None:
    if data.default_top1 is not None:
        axes.axhline(data.default_top1, color=ORANGE, ls="--", lw=1.2, label=f"documented default {data.default_top1:.2f} %")


def _history(axes: Any, data: SweepData) -> None:
    for state, colour, mark in (("complete", BLUE, "o"), ("pruned", GREY, "."), ("killed", GREY, "+"), ("failed", RED, "x")):
        rows = [row for row in data.rows if row.state == state]
        if rows:
            axes.scatter([row.number for row in rows], [row.top1 for row in rows], c=colour, marker=mark, s=28, label=state)
    best = data.best_so_far()
    if best:
        axes.step([number for number, _ in best], [score for _, score in best], where="post", color=BLUE, label="best so far")
    _default(axes, data)
    axes.set(xlabel="trial", ylabel=SCORE)
    _head(axes, "Optimisation history")


def _curves(axes: Any, data: SweepData) -> None:
    from matplotlib.collections import LineCollection

    board = data.standing.board
    curves = {row.number: data.curves[row.number] for row in data.rows if row.number in data.curves}
    pruned = {row.number for row in data.rows if row.state == "pruned"}
    for chosen, colour in ((pruned, GREY), (curves.keys() - pruned, BLUE)):
        lines = [curves[number] for number in chosen if number in curves]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.9, alpha=0.6))
    ends = [curves[number][-1] for number in pruned if number in curves]
    if ends:
        axes.scatter(*zip(*ends, strict=True), c=RED, marker="x", s=22, label="pruned here")
    for row, colour, label in ((board.baseline, ORANGE, "documented default"), (board.best, GREEN, "best")):
        if row and row.number in curves:
            axes.plot(*zip(*curves[row.number], strict=True), color=colour, lw=2.5, label=f"{label}, trial {row.number}")
    axes.autoscale()
    axes.set(xlabel="epochs completed", ylabel=SCORE)
    _head(axes, "Learning curves")


def _parallel(axes: Any, data: SweepData) -> None:
    """Every axis is drawn from 0 to 1, its ends named."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    rows = [row for row in data.rows if row.state in ("complete", "pruned")]
    scales: list[tuple[str, list[float], list[str]]] = []
    for one in data.axes:
        places = [one.place(row.values[one.name]) for row in rows]
        values = [math.log10(place) for place in places] if one.log else places
        given = [row.values[one.name] for row in rows]
        ends = [shown(given[values.index(end(values))]) for end in (min, max)] if values else ["", ""]
        scales.append((one.name + (" (log)" if one.log else ""), values, ends))
    scores = [row.top1 or 0.0 for row in rows]
    scales.append((SCORE, scores, [f"{end(scores):.1f}" for end in (min, max)] if scores else ["", ""]))
    columns = [_unit(values) for _, values, _ in scales]
    lines: list[Curve] = [[(index, column[number]) for index, column in enumerate(columns)] for number in range(len(rows))]
    colours = [colormaps["viridis"](value) for value in columns[-1]]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.1, alpha=0.8))
    for index, (_, _, ends) in enumerate(scales):
        axes.axvline(index, color="#666666", lw=0.8)
        for height, text, side in ((-0.03, ends[0], "top"), (1.03, ends[1], "bottom")):
            axes.text(index, height, text, ha="center", va=side, fontsize=8)
    axes.set(title="Parallel coordinates", ylim=(-0.14, 1.14), xlim=(-0.3, len(scales) - 0.7), yticks=[])
    axes.set_xticks(range(len(scales)), [name for name, _, _ in scales])


def _unit(values: list[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _importance(axes: Any, data: SweepData) -> None:
    pairs = sorted(data.importance.items(), key=lambda item: item[1])
    bars = axes.barh([name for name, _ in pairs], [share for _, share in pairs], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(title="Parameter importance (PED-ANOVA)", xlim=(0, 1.05), xlabel="share, sum 1")
    if not pairs:
        axes.text(0.5, 0.5, "not computed: too few trials ran to their end", ha="center", transform=axes.transAxes)
        axes.set(yticks=[])


def _slice(axes: Any, data: SweepData, index: int) -> None:
    one = data.axes[index]
    rows = [row for row in data.rows if row.state in ("complete", "pruned")]
    places = [one.place(row.values[one.name]) for row in rows]
    axes.scatter(places, [row.top1 for row in rows], c=[row.number for row in rows], cmap="viridis", s=22)
    if one.log and places:
        axes.set_xscale("log")
    if one.choices:
        axes.set_xticks(range(len(one.choices)), [shown(choice) for choice in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    axes.set(xlabel=one.name, ylabel=SCORE if index == 0 else "")
    axes.tick_params(labelleft=index == 0)
    axes.grid(alpha=0.3)
