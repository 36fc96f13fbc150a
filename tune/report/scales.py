"""Colours, axes and their ticks, as the report's page and its picture share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tune.report.data import Axis, SweepData
from tune.sweep.table import shown

BLUE, ORANGE, GREY, GREEN, RED = "#3b82f6", "#f59e0b", "#8a8f98", "#10b981", "#ef4444"
OTHERS = (BLUE, "#a855f7", RED, GREY, "#06b6d4")
# From low to high; unlike viridis, each end is as readable on a dark page as on a white one.
SCALE = ((0.0, "#7c6cf0"), (0.35, "#2f86eb"), (0.7, "#12a58c"), (1.0, "#f08c00"))
COLORSCALE = [list(pair) for pair in SCALE]
DIAGNOSTICS = {
    "sin_beta": "|sin β| (1: rotated)",
    "cosine": "cosine, weight and sign",
    "weight_flips": "share of weights flipped",
    "rotation_gain": "objective, after / before",
}
NEAREST = 0.07  # share of an axis that two labels must be apart


def layout(height: int, **more: Any) -> dict[str, Any]:
    """What all figures share; the title stands in the page."""
    margin = {"l": 70, "r": 30, "t": 30, "b": 60}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return {"height": height, "margin": margin, "legend": legend, "hovermode": "closest", **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title and unit."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False, **more}


def trial_colours(data: SweepData) -> dict[int, str]:
    """A colour for each trial that diagnostics are shown of: the best and the documented default
    have theirs everywhere.
    """
    board = data.standing.table
    numbers = dict.fromkeys(number for curves in data.diagnostics.values() for number in curves)
    special = {
        row.number: colour for row, colour in ((board.baseline, ORANGE), (board.best, GREEN)) if row
    }
    others = [number for number in numbers if number not in special]
    return special | {number: OTHERS[place % len(OTHERS)] for place, number in enumerate(others)}


def diagnostic_title(name: str) -> str:
    """What a metric `rbnn/...` is, on an axis."""
    plain = name.removeprefix("rbnn/")
    return DIAGNOSTICS.get(plain, plain)


def ticks(one: Axis, values: Sequence[float]) -> dict[str, Any]:
    """tickvals and ticktext of an axis of the parallel coordinates, whose scale plotly cannot make
    logarithmic.
    """
    if one.choices:
        return {
            "tickvals": list(range(len(one.choices))),
            "ticktext": [shown(choice) for choice in one.choices],
        }
    low, high = min(values), max(values)
    if one.log:
        room = NEAREST * (high - low)
        round_ones = [math.log10(mark) for mark in log_ticks([10**low, 10**high])["tickvals"]]
        inside = [mark for mark in round_ones if low + room < mark < high - room]
        places = [low, *inside, high] if high > low else [low]
        return {"tickvals": places, "ticktext": [f"{10**place:.3g}" for place in places]}
    if all(value == int(value) for value in values) and high - low <= 10:
        return {"tickvals": list(range(int(low), int(high) + 1))}
    return {}


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 of each decade, or at its beginning where those would be many."""
    if not values:
        return {}
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    inside = [mark for mark in fine if min(values) / 1.5 <= mark <= max(values) * 1.5]
    marks = inside if len(inside) <= 5 else [10.0**decade for decade in decades]
    return {"tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis of a slice, with a little room for the ticks at both ends."""
    ends = (
        {"range": [math.log10(min(values) / 1.3), math.log10(max(values) * 1.3)]} if values else {}
    )
    return {"type": "log", **log_ticks(values), **ends}
