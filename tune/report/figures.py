"""The figures of a report, described once, for plotly (page.py) and matplotlib (picture.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tune.report.data import Axis, SweepData
from tune.sweep.summary import LEAST_FOR_IMPORTANCE
from tune.sweep.table import METRIC, TrialRow, shown

SCORE = f"{METRIC} (%)"
BLUE, ORANGE, GREY, GREEN, RED = "#3b82f6", "#f59e0b", "#8a8f98", "#10b981", "#ef4444"
OTHERS = (BLUE, "#a855f7", RED, GREY, "#06b6d4")
# From low to high; unlike viridis, each end is as readable on a dark page as on a white one.
SCALE = ((0.0, "#7c6cf0"), (0.35, "#2f86eb"), (0.7, "#12a58c"), (1.0, "#f08c00"))
MARKS = {
    "complete": (BLUE, "circle"),
    "pruned": (GREY, "circle-open"),
    "short": (GREY, "diamond-open"),
    "interrupted": (GREY, "cross-open"),
    "failed": (RED, "x"),
    "running": (GREEN, "diamond-open"),
}
METRICS = {
    "rbnn/sin_beta": "|sin β| (1: rotated)",
    "rbnn/cosine": "cosine, weight and sign",
    "rbnn/weight_flips": "share of weights flipped",
    "rbnn/rotation_gain": "objective, after / before",
}
NEAREST = 0.07  # share of an axis that two labels must be apart


@dataclass(frozen=True)
class Series:
    """Points as marks, or joined by a line of `width`; None in x and y is a gap in it.

    colours: of each mark, where they differ. texts: what each point is, when it is pointed at.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: str = BLUE
    mark: str = ""
    width: float = 0.0
    dashed: bool = False
    step: bool = False
    opacity: float = 1.0
    colours: Sequence[str] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """Two axes and what is drawn between them. ticks: place -> text, where they are not usual."""

    x: str
    y: str
    series: list[Series]
    log: bool = False
    ticks: dict[float, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """An axis of the parallel coordinates: a value of each trial, and the places that have text."""

    label: str
    values: list[float]
    ticks: dict[float, str]


def told(row: TrialRow) -> str:
    """A trial in words."""
    values = "<br>".join(f"{name} {shown(value)}" for name, value in row.values.items())
    return (
        f"<b>trial {row.number}</b>, {row.shown_state}<br>{values}<br>"
        f"{METRIC} {row.top1:.2f} % after {row.epochs} epochs"
    )


def history(data: SweepData) -> list[Panel]:
    """Every trial's score by number, the best so far, and the documented default as a line."""
    series = []
    for state, (colour, mark) in MARKS.items():
        if rows := [row for row in data.rows if row.shown_state == state]:
            numbers, texts = [row.number for row in rows], [told(row) for row in rows]
            scores = [row.top1 for row in rows]
            series.append(Series(state, numbers, scores, colour, mark, texts=texts))
    if best := data.best_so_far():
        trials, tops = zip(*best, strict=True)
        series.append(Series("best so far", trials, tops, BLUE, width=2, step=True))
    base = data.table.baseline
    if base and base.top1 is not None:
        numbers = [data.rows[0].number, data.rows[-1].number]
        name = f"documented default {base.top1:.2f} %"
        series.append(Series(name, numbers, [base.top1] * 2, ORANGE, width=2, dashed=True))
    return [Panel("trial", SCORE, series)]


def curves(data: SweepData) -> list[Panel]:
    """val/top1 by epoch of every trial; the best and the documented default stand out."""
    best, base = data.table.best, data.table.baseline
    rows = [row for row in data.rows if row.number in data.curves]
    others = [row for row in rows if row not in (best, base)]
    pruned = [row for row in others if row.shown_state == "pruned"]
    short = [row for row in others if row.shown_state == "short"]
    rest = [row for row in others if row.state != "pruned"]
    ends = [data.curves[row.number][-1] for row in pruned]
    epochs, scores = [epoch for epoch, _ in ends], [score for _, score in ends]
    series = [
        replace(_joined("pruned", pruned, data), colour=GREY, width=1.0, opacity=0.6),
        replace(_joined("short", short, data), colour=GREY, width=1.0, opacity=0.6),
        replace(_joined("other trials", rest, data), width=1.3, opacity=opacity(len(rest))),
        Series("pruned here", epochs, scores, RED, "x", texts=[told(row) for row in pruned]),
    ]
    if base in rows and base is not best:
        name = "documented default, trial 0"
        series.append(replace(_joined(name, [base], data), colour=ORANGE, width=3.0))
    if best in rows:
        name = f"best, trial {best.number}"
        series.append(replace(_joined(name, [best], data), colour=GREEN, width=3.0))
    return [Panel("epochs completed", SCORE, [one for one in series if one.x])]


def _joined(name: str, rows: Iterable[TrialRow], data: SweepData) -> Series:
    """The curves of several trials as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for row in rows:
        curve = [*data.curves[row.number], (None, None)]
        x += [epoch for epoch, _ in curve]
        y += [score for _, score in curve]
        texts += [f"trial {row.number}"] * len(curve)
    return Series(name, x, y, texts=texts)


def opacity(num_lines: int) -> float:
    """At which so many lines can be told apart."""
    return max(0.2, min(0.7, 20 / max(num_lines, 1)))


def slices(data: SweepData) -> list[Panel]:
    """The score over each option by itself; later trials are more orange."""
    last = max((row.number for row in data.tried), default=0) or 1
    panels = []
    for axis in data.axes:
        series = []
        for state in ("pruned", "short", "complete"):
            rows = [row for row in data.tried if row.shown_state == state]
            scores, texts = [row.top1 for row in rows], [f"trial {row.number}" for row in rows]
            colours = [shade(row.number / last) for row in rows]
            places = [axis.place(row) for row in rows]
            points = Series(state, places, scores, mark=MARKS[state][1])
            if rows:
                series.append(replace(points, colours=colours, texts=texts))
        ticks = ticks_of(axis, [axis.place(row) for row in data.tried])
        panels.append(Panel(axis.label, SCORE, series, axis.log, ticks))
    return panels


def diagnostics(data: SweepData) -> list[Panel]:
    """The method's own metrics of the best trials, by epoch: a panel each."""
    best, base = data.table.best, data.table.baseline
    numbers = sorted({number for of in data.diagnostics.values() for number in of})
    special = {row.number: colour for row, colour in ((base, ORANGE), (best, GREEN)) if row}
    others = [number for number in numbers if number not in special]
    colours = dict(zip(others, OTHERS, strict=False)) | special
    panels = []
    for name, by_trial in sorted(data.diagnostics.items()):
        series = []
        for number in sorted(by_trial):
            epochs, values = zip(*by_trial[number], strict=True)
            mark, trial = "circle" if len(epochs) == 1 else "", f"trial {number}"
            series.append(Series(trial, epochs, values, colours[number], mark, width=2.0))
        panels.append(Panel("epochs completed", METRICS.get(name, name), series))
    return panels


def scales(data: SweepData) -> list[Scale]:
    """The axes of the parallel coordinates, the score as the last; logarithms where the axis has
    such a scale, as plotly cannot make one.
    """
    found = []
    for axis in data.axes:
        places = [axis.place(row) for row in data.tried]
        ticks = ticks_of(axis, places)
        values = [math.log10(place) for place in places] if axis.log else places
        if axis.log:
            ticks = {math.log10(place): text for place, text in ticks.items()}
        if not axis.choices:
            texts = [shown(float(place)) for place in places]
            ticks = with_ends(values, ticks, dict(zip(values, texts, strict=True)))
        found.append(Scale(axis.label, values, ticks))
    scores = [row.top1 or 0.0 for row in data.tried]
    ends = with_ends(scores, {}, {score: f"{score:.1f}" for score in scores})
    return [*found, Scale(SCORE, scores, ends)]


def with_ends(
    values: Sequence[float], ticks: dict[float, str], texts: dict[float, str]
) -> dict[float, str]:
    """Those ticks that have room between the least and the greatest value, and these two."""
    if not values:
        return {}
    low, high = min(values), max(values)
    room = NEAREST * (high - low)
    inside = {place: text for place, text in ticks.items() if low + room < place < high - room}
    return {low: texts[low], **inside, high: texts[high]}


def ticks_of(axis: Axis, values: Sequence[float]) -> dict[float, str]:
    """Where choices and few whole numbers stand; on a logarithmic axis 1, 2 and 5 of each decade,
    or its beginning where those would be many; nothing for the usual ticks.
    """
    if axis.choices:
        return {float(place): shown(choice) for place, choice in enumerate(axis.choices)}
    if not values:
        return {}
    low, high = min(values), max(values)
    if not axis.log:
        whole = all(value.is_integer() for value in values) and high - low <= 10
        return {float(n): str(n) for n in range(int(low), int(high) + 1)} if whole else {}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    marks = [mark for mark in fine if low / 1.5 <= mark <= high * 1.5]
    if len(marks) > 5:
        marks = [10.0**decade for decade in decades]
    return {mark: f"{mark:g}" for mark in marks}


def shade(share: float) -> str:
    """The colour at a share of SCALE, 0 to 1."""
    for (low, below), (high, above) in itertools.pairwise(SCALE):
        if share <= high:
            part = (share - low) / (high - low)
            pairs = [(int(below[at : at + 2], 16), int(above[at : at + 2], 16)) for at in (1, 3, 5)]
            return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in pairs)
    return SCALE[-1][1]


def why_missing(key: str, data: SweepData) -> str:
    """Why the sweep has no such figure; "" where it has."""
    if key == "diagnostics" and not data.diagnostics:
        return "The trials recorded no metrics of rotations and binary weights."
    if key == "importance" and not data.importance:
        complete = sum(row.state == "complete" for row in data.rows)
        if complete >= LEAST_FOR_IMPORTANCE:
            return "Not computed: all complete trials have the same score, or the same values."
        least = f"it takes at least {LEAST_FOR_IMPORTANCE}."
        return f"Not computed: {complete} trial(s) ran to their end, and {least}"
    return "" if data.rows or key == "importance" else "No trial has finished an epoch yet."


@dataclass(frozen=True)
class Figure:
    """A section of the report. panels: None where a figure has a shape of its own."""

    key: str
    title: str
    about: str
    panels: Callable[[SweepData], list[Panel]] | None = None


LAST = f"{METRIC} of every trial's last epoch; the line is the best complete trial so far."
PRUNED = "a cross marks where a trial was pruned."
VARIED = "PED-ANOVA over the trials that ran to their end, of the options that vary among them."
SLICES = "Each option by itself; later trials are more orange."
METHOD = "The method's own metrics of the best trials."
FIGURES = (
    Figure("history", "Optimisation history", LAST, history),
    Figure("curves", "Learning curves", f"{METRIC} by epoch; {PRUNED}", curves),
    Figure("parallel", "Parallel coordinates", "Drag along an axis to select trials."),
    Figure("importance", "Parameter importance", VARIED),
    Figure("slices", "Slices", SLICES, slices),
    Figure("diagnostics", "Rotations and binary weights", METHOD, diagnostics),
)
