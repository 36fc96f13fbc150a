"""The figures of a report as plotly's own JSON: {data, layout}. Colours of text and grid are the
page's, set in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tune.report.data import METRIC, Curve, SweepData
from tune.report.scales import (
    BLUE,
    COLORSCALE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    axis,
    diagnostic_title,
    layout,
    log_axis,
    ticks,
    trial_colours,
)
from tune.sweep.table import TrialRow, shown

Figure = dict[str, Any]
SCORE = f"{METRIC} (%)"
MANY = 40  # complete trials beyond which their curves are drawn as one, without a legend entry each


def hover(row: TrialRow) -> str:
    """A trial in words."""
    values = "<br>".join(f"{name} {shown(value)}" for name, value in row.values.items())
    return (
        f"<b>trial {row.number}</b>, {row.state}<br>{values}<br>{METRIC} {row.top1:.2f} % after "
        f"{row.epochs} epochs"
    )


def default_line(data: SweepData) -> list[Figure]:
    """The documented default's score, as a dashed line over all trials."""
    top1, numbers = data.default_top1, [row.number for row in data.rows]
    if top1 is None:
        return []
    line = {"color": ORANGE, "dash": "dash", "width": 2}
    name = f"documented default {top1:.2f} %"
    return [
        {
            "mode": "lines",
            "name": name,
            "x": [min(numbers), max(numbers)],
            "y": [top1, top1],
            "line": line,
        }
    ]


def history(data: SweepData) -> Figure:
    """Every trial's score by number, the best so far, and the documented default as a line."""
    traces: list[Figure] = []
    marks = {
        "complete": (BLUE, "circle"),
        "pruned": (GREY, "circle-open"),
        "killed": (GREY, "x-thin-open"),
    }
    marks |= {"failed": (RED, "x"), "running": (GREEN, "diamond-open")}
    for state, (colour, symbol) in marks.items():
        rows = [row for row in data.rows if row.state == state]
        if rows:
            marker = {"color": colour, "symbol": symbol, "size": 8}
            traces.append(
                {
                    "type": "scattergl",
                    "mode": "markers",
                    "name": state,
                    "marker": marker,
                    "hoverinfo": "text",
                }
                | {
                    "x": [row.number for row in rows],
                    "y": [row.top1 for row in rows],
                    "text": [hover(row) for row in rows],
                }
            )
    best = data.best_so_far()
    line = {"color": BLUE, "shape": "hv", "width": 2}
    traces.append(
        {
            "mode": "lines",
            "name": "best so far",
            "x": [n for n, _ in best],
            "y": [s for _, s in best],
            "line": line,
        }
    )
    return {
        "data": traces + default_line(data),
        "layout": layout(420, xaxis=axis("trial"), yaxis=axis(SCORE)),
    }


def joined(curves: Iterable[Curve]) -> tuple[list[float | None], list[float | None]]:
    """Several curves as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    for curve in curves:
        x += [epoch for epoch, _ in curve] + [None]
        y += [value for _, value in curve] + [None]
    return x, y


def learning_curves(data: SweepData) -> Figure:
    """val/top1 by epoch of every trial; where a trial was pruned is marked, the best and the
    documented default stand out.
    """
    board = data.standing.table
    special = {row.number: row for row in (board.best, board.baseline) if row}
    traces: list[Figure] = []

    def add(name: str, curves: Iterable[Curve], colour: str, width: float, **more: Any) -> None:
        x, y = joined(curves)
        traces.append(
            {
                "type": "scattergl",
                "mode": "lines",
                "name": name,
                "x": x,
                "y": y,
                "line": {"color": colour, "width": width},
                **more,
            }
        )

    others = [row for row in data.rows if row.number not in special and row.number in data.curves]
    pruned = [row for row in others if row.state == "pruned"]
    rest = [row for row in others if row.state != "pruned"]
    if pruned:
        add(
            "pruned",
            [data.curves[row.number] for row in pruned],
            GREY,
            1,
            opacity=0.6,
            hoverinfo="skip",
        )
        ends = [(row, data.curves[row.number][-1]) for row in pruned]
        traces.append(
            {
                "type": "scattergl",
                "mode": "markers",
                "name": "pruned here",
                "hoverinfo": "text",
                "text": [hover(row) for row, _ in ends],
            }
            | {"x": [end[0] for _, end in ends], "y": [end[1] for _, end in ends]}
            | {"marker": {"color": RED, "symbol": "x", "size": 7}}
        )
    if len(rest) > MANY:
        add(
            "other trials",
            [data.curves[row.number] for row in rest],
            BLUE,
            1,
            opacity=0.5,
            hoverinfo="skip",
        )
    else:
        for index, row in enumerate(rest):
            told = {
                "showlegend": index == 0,
                "hovertemplate": f"trial {row.number}: %{{y:.2f}} %<extra></extra>",
            }
            add("other trials", [data.curves[row.number]], BLUE, 1.3, opacity=0.7, **told)
    for row in special.values():
        is_best = row is board.best
        name = f"best, trial {row.number}" if is_best else "documented default, trial 0"
        if row.number in data.curves:
            add(name, [data.curves[row.number]], GREEN if is_best else ORANGE, 3)
    epochs = axis("epochs completed", rangemode="tozero")
    return {"data": traces, "layout": layout(460, xaxis=epochs, yaxis=axis(SCORE))}


def parallel(data: SweepData) -> Figure:
    """Each trial as a line over the searched options to its score, coloured by the score."""
    rows = [row for row in data.rows if row.state in ("complete", "pruned")]
    dimensions = []
    for one in data.axes:
        places = [one.place(row.values[one.name]) for row in rows]
        values = [math.log10(place) for place in places] if one.log else places
        label = f"{one.name} (log)" if one.log else one.name
        dimensions.append(
            {"label": label, "values": values, **(ticks(one, values) if values else {})}
        )
    scores = [row.top1 for row in rows]
    dimensions.append({"label": SCORE, "values": scores})
    line = {
        "color": scores,
        "colorscale": COLORSCALE,
        "showscale": True,
        "colorbar": {"title": {"text": SCORE, "side": "right"}},
    }
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": line,
        "labelside": "top",
        "rangefont": {
            "color": "rgba(0,0,0,0)"
        },  # plotly writes the ends of some axes a second time
        "unselected": {"line": {"opacity": 0.1}},
    }
    return {"data": [trace], "layout": layout(440, margin={"l": 70, "r": 40, "t": 60, "b": 30})}


def importance(data: SweepData) -> Figure:
    """The share of each option in what tells good trials from others."""
    pairs = sorted(data.importance.items(), key=lambda item: item[1])
    names, shares = [name for name, _ in pairs], [share for _, share in pairs]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": names,
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:.2f}",
    }
    trace |= {"text": [f"{share:.2f}" for share in shares], "textposition": "outside", "name": ""}
    return {
        "data": [trace],
        "layout": layout(
            120 + 42 * len(names), xaxis=axis("importance (sum 1)", range=[0, 1.06]), yaxis=axis("")
        ),
    }


def slices(data: SweepData) -> Figure:
    """The score over each option by itself; later trials are brighter."""
    rows, num = [row for row in data.rows if row.state in ("complete", "pruned")], len(data.axes)
    columns = min(num, 3)
    traces: list[Figure] = []
    places: dict[str, Any] = {
        "grid": {
            "rows": math.ceil(num / columns),
            "columns": columns,
            "pattern": "independent",
            "ygap": 0.35,
        }
    }
    for index, one in enumerate(data.axes):
        suffix = "" if index == 0 else str(index + 1)
        marker: dict[str, Any] = {
            "color": [row.number for row in rows],
            "colorscale": COLORSCALE,
            "size": 7,
            "showscale": index == 0,
        }
        marker |= {
            "symbol": ["circle" if row.state == "complete" else "circle-open" for row in rows]
        }
        marker |= {"colorbar": {"title": {"text": "trial", "side": "right"}}}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "marker": marker,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "showlegend": False,
            }
            | {
                "x": [one.place(row.values[one.name]) for row in rows],
                "y": [row.top1 for row in rows],
            }
            | {"text": [hover(row) for row in rows], "hoverinfo": "text", "name": one.name}
        )
        more: dict[str, Any] = (
            log_axis([one.place(row.values[one.name]) for row in rows]) if one.log else {}
        )
        if one.choices:
            more = {
                "tickvals": list(range(len(one.choices))),
                "ticktext": [shown(choice) for choice in one.choices],
            }
            more["range"] = [-0.5, len(one.choices) - 0.5]
        places[f"xaxis{suffix}"] = axis(one.name + (" (log)" if one.log else ""), **more)
        places[f"yaxis{suffix}"] = axis(SCORE if index % columns == 0 else "")
    return {"data": traces, "layout": layout(60 + 300 * math.ceil(num / columns), **places)}


def diagnostics(data: SweepData) -> Figure:
    """The method's own metrics of the best trials, by epoch: a panel each."""
    names = sorted(data.diagnostics)
    columns = 2 if len(names) == 4 else min(len(names), 3)
    colours = trial_colours(data)
    traces: list[Figure] = []
    places: dict[str, Any] = {
        "grid": {
            "rows": math.ceil(len(names) / columns),
            "columns": columns,
            "pattern": "independent",
            "ygap": 0.35,
        }
    }
    for index, name in enumerate(names):
        suffix = "" if index == 0 else str(index + 1)
        for number, curve in data.diagnostics[name].items():
            line = {"color": colours[number]}
            group = {
                "name": f"trial {number}",
                "legendgroup": str(number),
                "showlegend": index == 0,
            }
            x, y = [epoch for epoch, _ in curve], [value for _, value in curve]
            traces.append(
                {
                    "mode": "lines",
                    "x": x,
                    "y": y,
                    "line": line,
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                    **group,
                }
            )
        places[f"xaxis{suffix}"] = axis("epochs completed", nticks=6)
        places[f"yaxis{suffix}"] = axis(diagnostic_title(name))
    return {"data": traces, "layout": layout(80 + 280 * math.ceil(len(names) / columns), **places)}
