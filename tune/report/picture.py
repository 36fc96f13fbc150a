"""The report as one PNG, drawn by matplotlib, which MLflow brings: no browser is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune.report.data import Curve, SweepData
from tune.report.scales import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SCALE,
    diagnostic_title,
    log_ticks,
    trial_colours,
)
from tune.sweep.table import METRIC, shown

SCORE = f"{METRIC} (%)"
WIDTH = 14.0  # inches, as all that follows
HEAD, TITLE, FOOT = (
    0.5,
    0.65,
    0.7,
)  # above all rows; above each, for its titles and legends; below each, for its axis
PANELS_IN_ROW = 5
# Between a panel's title and the panel, where it covers nothing.
LEGEND: dict[str, Any] = {
    "fontsize": 8,
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "frameon": False,
    "borderaxespad": 0.2,
    "columnspacing": 1,
    "handlelength": 1.5,
}
LEFT, RIGHT = 0.06, 0.97  # of a row of panels, as shares of the width


def draw(data: SweepData, file: Path) -> None:
    """History and learning curves, parallel coordinates, importance, a slice of each option,
    diagnostics of the best.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    options, names = _rows_of(range(len(data.axes))), _rows_of(sorted(data.diagnostics))
    heights = [2.6, 2.6, max(0.3 * len(data.importance), 0.5), *[2.0] * (len(options) + len(names))]
    total = HEAD + sum(heights) + (TITLE + FOOT) * len(heights)
    figure = Figure(figsize=(WIDTH, total), layout=None)
    FigureCanvasAgg(figure)

    # A fixed layout: matplotlib's own takes longer than all the drawing.
    def place(row: int, left: float, right: float) -> Any:
        bottom = HEAD + sum(heights[: row + 1]) + TITLE * (row + 1) + FOOT * row
        return figure.add_axes((left, 1 - bottom / total, right - left, heights[row] / total))

    def panel(row: int, column: int) -> Any:
        width = (RIGHT - LEFT) / PANELS_IN_ROW
        return place(row, LEFT + column * width, LEFT + (column + 0.78) * width)

    _history(place(0, LEFT, 0.48), data)
    _curves(place(0, 0.55, RIGHT), data)
    _parallel(place(1, LEFT, RIGHT), data)
    _importance(place(2, 0.13, RIGHT), data)
    for row, indices in enumerate(options, 3):
        for column, index in enumerate(indices):
            _slice(panel(row, column), data, index, first=column == 0)
    for row, metrics in enumerate(names, 3 + len(options)):
        for column, name in enumerate(metrics):
            _diagnostic(panel(row, column), data, name, first=column == 0)
    title = (
        f"{data.name}: {data.recipe['model']} on {data.recipe['dataset']}, {data.num_epochs} epochs"
    )
    figure.suptitle(title, y=1 - 0.35 / total, va="center", fontsize=15)
    figure.savefig(file, dpi=90)


def _rows_of(panels: Sequence[Any]) -> list[Sequence[Any]]:
    return [panels[start : start + PANELS_IN_ROW] for start in range(0, len(panels), PANELS_IN_ROW)]


def _head(axes: Any, title: str) -> None:
    """Title, and the legend between it and the figure, where it covers nothing."""
    axes.set_title(title, pad=22)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**LEGEND, ncols=7)


def _default(axes: Any, data: SweepData) -> None:
    if data.default_top1 is not None:
        axes.axhline(
            data.default_top1,
            color=ORANGE,
            ls="--",
            lw=1.2,
            label=f"documented default {data.default_top1:.2f} %",
        )


def _history(axes: Any, data: SweepData) -> None:
    marks = {
        "complete": (BLUE, "o"),
        "pruned": (GREY, "o"),
        "killed": (GREY, "+"),
        "failed": (RED, "x"),
        "running": (GREEN, "D"),
    }
    for state, (colour, mark) in marks.items():
        rows = [row for row in data.rows if row.state == state]
        if rows:
            face = {"facecolors": "none"} if state in ("pruned", "running") else {}
            numbers, scores = [row.number for row in rows], [row.top1 for row in rows]
            edge = {"color": colour} if not face else {"edgecolors": colour}
            axes.scatter(
                numbers,
                scores,
                marker=mark,
                s=_size(data),
                linewidths=1,
                label=state,
                zorder=2,
                **face,
                **edge,
            )
    best = data.best_so_far()
    if best:
        axes.step(
            [number for number, _ in best],
            [score for _, score in best],
            where="post",
            color=BLUE,
            label="best so far",
        )
    _default(axes, data)
    axes.set(xlabel="trial", ylabel=SCORE)
    _head(axes, "Optimisation history")


def _curves(axes: Any, data: SweepData) -> None:
    from matplotlib.collections import LineCollection

    board = data.standing.table
    curves = {row.number: data.curves[row.number] for row in data.rows if row.number in data.curves}
    pruned = {row.number for row in data.rows if row.state == "pruned"}
    for chosen, colour, label in (
        (pruned, GREY, "pruned"),
        (curves.keys() - pruned, BLUE, "others"),
    ):
        lines = [curves[number] for number in chosen if number in curves]
        if lines:
            axes.add_collection(
                LineCollection(
                    lines, colors=colour, linewidths=0.9, alpha=_alpha(len(lines)), label=label
                )
            )
    ends = [curves[number][-1] for number in pruned if number in curves]
    if ends:
        axes.scatter(*zip(*ends, strict=True), c=RED, marker="x", s=22, label="pruned here")
    for row, colour, label in (
        (board.baseline, ORANGE, "documented default"),
        (board.best, GREEN, "best"),
    ):
        if row and row.number in curves:
            axes.plot(
                *zip(*curves[row.number], strict=True),
                color=colour,
                lw=2.5,
                label=f"{label}, trial {row.number}",
            )
    axes.autoscale()
    axes.set(xlabel="epochs completed", ylabel=SCORE)
    _head(axes, "Learning curves")


def _parallel(axes: Any, data: SweepData) -> None:
    """Every axis is drawn from 0 to 1, its ends named."""
    from matplotlib.collections import LineCollection

    tried = [row for row in data.rows if row.state in ("complete", "pruned")]
    rows = sorted(
        tried, key=lambda row: row.top1 or 0.0
    )  # the best are drawn last, over the others
    scales: list[tuple[str, list[float], list[str]]] = []
    for one in data.axes:
        places = [one.place(row.values[one.name]) for row in rows]
        values = [math.log10(place) for place in places] if one.log else places
        given = [row.values[one.name] for row in rows]
        ends = (
            [shown(given[values.index(end(values))]) for end in (min, max)] if values else ["", ""]
        )
        scales.append((one.name + (" (log)" if one.log else ""), values, ends))
    scores = [row.top1 or 0.0 for row in rows]
    scales.append(
        (SCORE, scores, [f"{end(scores):.1f}" for end in (min, max)] if scores else ["", ""])
    )
    columns = [_unit(values) for _, values, _ in scales]
    lines: list[Curve] = [
        [(index, column[number]) for index, column in enumerate(columns)]
        for number in range(len(rows))
    ]
    colours = _scale()(columns[-1])
    axes.add_collection(
        LineCollection(lines, colors=colours, linewidths=1.1, alpha=_alpha(len(rows)))
    )
    for index, (_, _, ends) in enumerate(scales):
        axes.axvline(index, color="#666666", lw=0.8)
        for height, text, side in ((-0.03, ends[0], "top"), (1.03, ends[1], "bottom")):
            axes.text(index, height, text, ha="center", va=side, fontsize=8)
    axes.set(
        title="Parallel coordinates", ylim=(-0.14, 1.14), xlim=(-0.3, len(scales) - 0.7), yticks=[]
    )
    axes.set_xticks(range(len(scales)), [name for name, _, _ in scales])


def _size(data: SweepData) -> float:
    """Of a trial's mark."""
    return 24.0 if len(data.rows) <= 200 else 10.0


def _alpha(num_lines: int) -> float:
    """The opacity at which so many lines can be told apart."""
    return 0.7 if num_lines <= 50 else 0.35 if num_lines <= 300 else 0.2


def _unit(values: list[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _scale() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("rbnn", [(place, colour) for place, colour in SCALE])


def _importance(axes: Any, data: SweepData) -> None:
    pairs = sorted(data.importance.items(), key=lambda item: item[1])
    axes.set_title("Parameter importance (PED-ANOVA)")
    if not pairs:
        axes.text(
            0.5,
            0.5,
            "not computed: too few trials ran to their end",
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        axes.set(xticks=[], yticks=[])
        return
    bars = axes.barh([name for name, _ in pairs], [share for _, share in pairs], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(xlim=(0, 1.05), xlabel="share, sum 1")


def _slice(axes: Any, data: SweepData, index: int, *, first: bool) -> None:
    """Open circles were pruned; the colour tells the trial's number, as in the page."""
    one = data.axes[index]
    rows = [row for row in data.rows if row.state in ("complete", "pruned")]
    last = max((row.number for row in rows), default=1) or 1
    for state, label in (
        ("pruned", "pruned"),
        ("complete", "complete: later trials are more orange"),
    ):
        chosen = [row for row in rows if row.state == state]
        places, scores = (
            [one.place(row.values[one.name]) for row in chosen],
            [row.top1 for row in chosen],
        )
        colours = _scale()([row.number / last for row in chosen])
        face = (
            {"facecolors": "none", "edgecolors": colours}
            if state == "pruned"
            else {"color": colours}
        )
        if chosen:
            axes.scatter(places, scores, s=_size(data), linewidths=1, label=label, **face)
    values = [one.place(row.values[one.name]) for row in rows]
    if one.log and values:
        marks = log_ticks(values)
        axes.set_xscale("log")
        axes.set_xticks(marks["tickvals"], marks["ticktext"])
        axes.set_xticks([], minor=True)
    if one.choices:
        axes.set_xticks(range(len(one.choices)), [shown(choice) for choice in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    axes.set(xlabel=one.name + (" (log)" if one.log else ""), ylabel=SCORE if first else "")
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    if first and rows:
        axes.set_title("Slices: each option by itself", loc="left", pad=22)
        axes.legend(**LEGEND, ncols=2)


def _diagnostic(axes: Any, data: SweepData, name: str, *, first: bool) -> None:
    """One of the method's own metrics, of the best trials."""
    colours = trial_colours(data)
    for number, curve in data.diagnostics[name].items():
        mark = "o" if len(curve) == 1 else ""
        axes.plot(
            *zip(*curve, strict=True),
            color=colours[number],
            lw=1.5,
            marker=mark,
            label=f"trial {number}",
        )
    axes.set(xlabel="epochs completed")
    axes.set_title(diagnostic_title(name), fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    if first:
        axes.text(
            0,
            1.26,
            "Rotations and binary weights of the best trials",
            fontsize=12,
            transform=axes.transAxes,
        )
        axes.legend(**LEGEND | {"bbox_to_anchor": (0, 1.12)}, ncols=7)
