"""The report as one HTML file: plotly's code is in it, so it opens anywhere, without a network, in
light and in dark, as wide as a telephone or a screen; and the files of a report.
"""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.data.progress import told_if_long
from rbnn.errors import RequestError
from tune.report.data import SweepData, gather
from tune.report.figures import BLUE, FIGURES, SCALE, Figure, Panel, Series, scales, why_missing
from tune.report.picture import draw
from tune.report.table import as_html, verdict
from tune.sweep.folder import SweepFolder

HTML, PNG = "report.html", "report.png"
ASSETS = Path(__file__).with_name("assets")
NUM_ROWS = 20
ALONE = ("history", "curves", "parallel", "importance")  # figures of one plot each
MODULE = re.compile(r"[ ,][\w$]+=[\w$]+\(\((?:[\w$]+,([\w$]+))?\)=>\{")
LARGE = 250_000  # characters
MANY = 5_000  # points beyond which WebGL draws them; a browser has few of its contexts


@dataclass(frozen=True)
class Report:
    """A report that is written: what it shows, and its files."""

    data: SweepData
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        data, base = self.data, self.data.table.baseline
        return data.summary.to_dict() | {
            "default_top1": base.top1 if base else None,
            "importance": data.importance,
            "curves": {str(number): curve for number, curve in data.curves.items()},
            "files": [str(file) for file in self.files],
        }


def write_report(folder: SweepFolder, directory: Path | None = None) -> Report:
    """report.html and report.png of a sweep as it stands, in its folder or in `directory`."""
    directory = directory or folder.directory
    directory.mkdir(parents=True, exist_ok=True)
    text, picture = directory / HTML, directory / PNG
    with told_if_long("writing the report"):
        data = gather(folder)
        text.write_text(page(data), "utf-8")
        draw(data, picture)
    return Report(data, (text, picture))


def page(data: SweepData) -> str:
    """The whole report."""
    drawn: dict[str, Any] = {}
    sections = [_section(figure, data, drawn) for figure in FIGURES]
    confirmation = "\n".join(data.summary.confirmation)
    body = [
        f"<h1>{html.escape(data.name)}</h1>",
        f'<p class="dim">{html.escape(subtitle(data))}</p>',
        f"<p>{html.escape(data.description)}</p>",
        f'<p class="verdict">{html.escape(verdict(data.table))}</p>',
        f"<h2>Best trials</h2>{as_html(data.table, NUM_ROWS)}",
    ]
    if confirmation:
        title = "Confirmation with fresh seeds"
        body.append(f"<h2>{title}</h2><pre>{html.escape(confirmation)}</pre>")
    code = f"{plotly_code()}\nconst FIGURES = {json.dumps(drawn)};\n{_asset('report.js')}"
    packed = base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{html.escape(data.name)}: sweep report</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_asset('report.css')}</style></head>\n<body>\n"
        + "\n".join([*body, f"<pre>{html.escape(commands(data))}</pre>", *sections])
        + f'\n<script type="text/plain" id="packed">{packed}</script>\n'
        f"<script>{_asset('unpack.js')}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def plotly_code() -> str:
    """plotly's code without its largest modules, which draw maps and bodies in space.

    Each is a function that is called for what it exports; what stands for it answers every
    question with itself. None of another build that looks different is cut.
    """
    from plotly.offline import get_plotlyjs

    code, kept, at = get_plotlyjs(), [], 0
    heads = list(MODULE.finditer(code))
    for head, following in itertools.pairwise(heads):
        end = code.rfind("});var", head.end(), following.start())
        if end - head.end() > LARGE:
            stand_in = "new Proxy(function(){}, {get: (of, name, itself) => itself})"
            kept += [code[at : head.end()], f"{head[1]}.exports={stand_in}" if head[1] else ""]
            at = end
    return "".join([*kept, code[at:]])


def subtitle(data: SweepData) -> str:
    """What was searched, in one line."""
    counts = [f"{number} {state}" for state, number in data.summary.counts().items() if number]
    recipe = data.recipe
    return (
        f"{recipe['model']} on {recipe['dataset']}, {recipe['epochs']} epochs, seed "
        f"{recipe['seed']}; trials: {', '.join(counts) or 'none'}; "
        f"{data.summary.used_s / 3600:.2f} hours"
    )


def commands(data: SweepData) -> str:
    """What to do next."""
    best, lines = data.table.best, [(f"rbnn ui {data.name}", "every trial in MLflow")]
    if best and best.run_id:
        again = f"rbnn replay {best.run_id[:8]}"
        lines.insert(0, (again, "run the best trial again, to the bit"))
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:{width}}   {about}" for command, about in lines)


def _section(figure: Figure, data: SweepData, drawn: dict[str, Any]) -> str:
    """A figure's title and its panels' places, which go into `drawn`; or why it is missing."""
    head = f"<section><h2>{figure.title}</h2>"
    if why := why_missing(figure.key, data):
        return f'{head}<p class="dim">{html.escape(why)}</p></section>'
    plots, legend = plots_of(figure, data), ""
    if figure.panels:
        names = {one.name: one for panel in figure.panels(data) for one in panel.series}
        legend = "".join(_legend(one) for one in names.values())
    places = ""
    for number, plot in enumerate(plots):
        drawn[f"{figure.key}{number}"] = plot
        width = plot.pop("width", 0)
        places += f'<div id="{figure.key}{number}" style="min-width:{width}px"></div>'
    kind = "plots several" if len(plots) > 1 else "plots"
    return (
        f'{head}<p class="dim">{figure.about}</p><div class="card"><p class="legend">{legend}</p>'
        f'<div class="{kind}">{places}</div></div></section>'
    )


def plots_of(figure: Figure, data: SweepData) -> list[dict[str, Any]]:
    """A figure's plots, as plotly's data and layout."""
    if figure.key == "parallel":
        return [of_scales(data)]
    if figure.panels is None:
        return [of_importance(data)]
    panels = figure.panels(data)
    return [of_panel(panel, 280 if len(panels) > 1 else 400) for panel in panels]


def _legend(one: Series) -> str:
    sign = {"": "━", "x": "✕", "circle": "●", "diamond-open": "◇", "cross-open": "+"}
    text = "╍" if one.dashed else sign.get(one.mark, "○")
    colour = "inherit" if one.colours else one.colour
    name = html.escape(one.name)
    return f'<button data-name="{name}"><b style="color:{colour}">{text}</b> {name}</button>'


def figure(key: str, data: SweepData) -> Any:
    """A figure of a single plot as plotly's Figure; RequestError for another, or where none is."""
    from plotly.graph_objects import Figure as Plot

    known = {one.key: one for one in FIGURES if one.key in ALONE}
    if key not in known:
        raise RequestError(f"figure '{key}' is unknown; choose {', '.join(known)}")
    if why := why_missing(key, data):
        raise RequestError(f"figure '{key}' of sweep {data.name}: {why}")
    (plot,) = plots_of(known[key], data)
    plot.pop("width", None)
    layout = {"title": {"text": f"{data.name}: {known[key].title.lower()}"}, "showlegend": True}
    return Plot(plot).update_layout(layout, margin_t=60)


def of_panel(panel: Panel, height: int) -> dict[str, Any]:
    """A panel as plotly's data and layout."""
    traces = []
    for one in panel.series:
        modes = ["lines"] * bool(one.width) + ["markers"] * bool(one.mark)
        traces.append(
            {
                "type": "scattergl" if len(one.x) > MANY else "scatter",
                "mode": "+".join(modes), "name": one.name, "x": one.x,
                "y": [None if value is None else round(value, 6) for value in one.y],
                "opacity": one.opacity, "text": one.texts,
                "hovertemplate": "%{text}<extra></extra>" if one.mark and one.texts else None,
                "marker": {
                    "color": one.colours or one.colour, "symbol": one.mark or None, "size": 8
                },
                "line": {
                    "color": one.colour, "width": one.width,
                    "dash": "dash" if one.dashed else "solid", "shape": "hv" if one.step else None,
                },
            }
        )  # fmt: skip
    ticks = {"tickvals": list(panel.ticks), "ticktext": list(panel.ticks.values())}
    x = _axis(panel.x, type="log" if panel.log else None, **ticks if panel.ticks else {})
    return {"data": traces, "layout": _layout(height, xaxis=x, yaxis=_axis(panel.y))}


def of_importance(data: SweepData) -> dict[str, Any]:
    """A bar for each option, the most important on top."""
    names, shares = list(data.importance)[::-1], list(data.importance.values())[::-1]
    bars = {
        "type": "bar", "orientation": "h", "x": shares, "y": names, "marker": {"color": BLUE},
        "text": [f"{share:.2f}" for share in shares], "textposition": "outside",
        "hoverinfo": "skip", "cliponaxis": False,
    }  # fmt: skip
    x = _axis("importance (sum 1)", range=[0, 1.06])
    return {"data": [bars], "layout": _layout(90 + 34 * len(names), xaxis=x, yaxis=_axis(""))}


def of_scales(data: SweepData) -> dict[str, Any]:
    """The parallel coordinates; wider than a narrow page, which then scrolls."""
    found = scales(data)
    trace = {
        "type": "parcoords",
        "dimensions": [
            {"label": one.label, "values": one.values, "tickvals": list(one.ticks),
             "ticktext": list(one.ticks.values())}
            for one in found
        ],
        "line": {"color": found[-1].values, "colorscale": SCALE},
        "rangefont": {"color": "rgba(0,0,0,0)"},  # the ends are ticks already
        "unselected": {"line": {"opacity": 0.1}},
    }  # fmt: skip
    layout = _layout(420, margin={"l": 70, "r": 50, "t": 50, "b": 20})
    return {"data": [trace], "layout": layout, "width": 130 * len(found)}


def _layout(height: int, **more: Any) -> dict[str, Any]:
    margin = {"l": 20, "r": 16, "t": 12, "b": 20}
    return {"height": height, "margin": margin, "showlegend": False, "hovermode": "closest", **more}


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False, **more}
