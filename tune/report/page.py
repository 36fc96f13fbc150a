"""The report as one HTML file: plotly's code is in it, so it opens anywhere, without a network, in
light and in dark.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

from tune.report import figures
from tune.report.console import verdict
from tune.report.data import LEAST_FOR_IMPORTANCE, SweepData
from tune.sweep.table import BASELINE, METRIC, TrialRow, columns, percent, shown

NUM_ROWS = 20
STYLE = """
:root { color-scheme: light dark;
  --text: #1f2328; --dim: #59636e; --page: #ffffff; --card: #f6f8fa; --grid: #d9dee3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --dim: #9198a1; --page: #0d1117; --card: #151b23; --grid: #30363d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); }
body { margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 34px 0 4px; }
p { margin: 6px 0; } .dim { color: var(--dim); } .verdict { font-size: 17px; margin: 14px 0; }
section .plot { background: var(--card); border-radius: 8px; padding: 8px; }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid var(--grid); }
th { color: var(--dim); font-weight: 600; }
td.word, th.word { text-align: left; } tr.best { font-weight: 600; }
pre { background: var(--card); border-radius: 8px; padding: 10px 14px; overflow-x: auto; }
.scroll { overflow-x: auto; }
.parcoords .axis path, .parcoords .axis line { stroke: var(--dim) !important; }
.parcoords .axis text { text-shadow: 0 0 3px var(--card), 0 0 3px var(--card) !important; }
"""
SCRIPT = """
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function themed(layout) {
  const copy = structuredClone(layout), text = css('--text'), grid = css('--grid');
  const clear = 'rgba(0,0,0,0)', font = {color: text, size: 13};
  Object.assign(copy, {paper_bgcolor: clear, plot_bgcolor: clear, font});
  copy.modebar = {bgcolor: 'rgba(0,0,0,0)', color: css('--dim'), activecolor: text};
  const axes = Object.keys(copy).filter(key => /^[xy]axis/.test(key));
  for (const key of axes.concat(['xaxis', 'yaxis']))
    copy[key] = Object.assign({}, copy[key], {gridcolor: grid, linecolor: grid});
  return copy;
}
function draw() {
  for (const [id, figure] of Object.entries(FIGURES))
    Plotly.react(id, figure.data, themed(figure.layout), {responsive: true, displaylogo: false});
}
draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
"""


def page(data: SweepData) -> str:
    """The whole report."""
    from plotly.offline import get_plotlyjs

    drawn: dict[str, Any] = {}
    sections = [_section(drawn, data, *each) for each in SECTIONS]
    standing = data.standing
    confirmation = "\n".join(standing.confirmation)
    body = [
        f"<h1>{html.escape(data.name)}</h1>",
        f'<p class="dim">{html.escape(subtitle(data))}</p>',
        f"<p>{html.escape(data.description)}</p>" if data.description else "",
        f'<p class="verdict">{html.escape(verdict(standing.table))}</p>',
        f"<h2>Best trials</h2>{_table(data)}",
        f"<h2>Confirmation with fresh seeds</h2><pre>{html.escape(confirmation)}</pre>"
        if confirmation
        else "",
        f"<pre>{html.escape(commands(data))}</pre>",
        *sections,
    ]
    title = f"{html.escape(data.name)}: sweep report"
    as_json = json.dumps(drawn).replace("</", "<\\/")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>\n'
        f"<script>{get_plotlyjs()}</script></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>const FIGURES = {as_json};{SCRIPT}</script>\n"
        "</body></html>\n"
    )


def subtitle(data: SweepData) -> str:
    """What was searched, in one line."""
    counts = ", ".join(
        f"{number} {state}" for state, number in data.standing.counts().items() if number
    )
    recipe = data.recipe
    return (
        f"{recipe['model']} on {recipe['dataset']}, {recipe['epochs']} epochs, seed "
        f"{recipe['seed']}; "
        f"trials: {counts or 'none'}; {data.standing.used_s / 3600:.2f} hours"
    )


def commands(data: SweepData) -> str:
    """What to do next."""
    best = data.standing.table.best
    lines = (
        [(f"rbnn replay {best.run_id[:8]}", "run the best trial again, to the bit")]
        if best and best.run_id
        else []
    )
    lines.append((f"rbnn ui {data.name}", "every trial in MLflow"))
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:{width}}   {about}" for command, about in lines)


def _table(data: SweepData) -> str:
    rows = data.standing.table.ranked[:NUM_ROWS]
    base = data.standing.table.baseline
    rows += [base] if base and base not in rows else []
    names = columns(rows)
    head = "".join(
        f"<th>{html.escape(name)}</th>" for name in ("trial", "epochs", f"{METRIC} (%)", *names)
    )
    lines = [
        f'<tr>{head}<th class="word">state</th><th class="word">run</th><th class="word"></th></tr>'
    ]
    lines += [_row(data, row, names) for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _row(data: SweepData, row: TrialRow, names: list[str]) -> str:
    board = data.standing.table
    notes = [board.best_note] * (row is board.best) + ["documented default"] * (
        row.number == BASELINE
    )
    numbers = [
        str(row.number),
        f"{row.epochs}/{data.num_epochs}",
        percent(row.top1),
        *(shown(row.values[name]) for name in names),
    ]
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in numbers)
    words = "".join(
        f'<td class="word">{html.escape(text)}</td>'
        for text in (row.state, row.run_id[:8], ", ".join(notes))
    )
    return f'<tr class="{"best" if row is board.best else ""}">{cells}{words}</tr>'


def _section(
    drawn: dict[str, Any],
    data: SweepData,
    key: str,
    title: str,
    about: str,
    figure: Callable[[SweepData], Any],
    missing: Callable[[SweepData], str],
) -> str:
    """One figure with its title and what it shows, or why it is missing."""
    why = missing(data)
    head = f"<section><h2>{title}</h2>"
    if why:
        return f'{head}<p class="dim">{html.escape(why)}</p></section>'
    drawn[key] = figure(data)
    return (
        f'{head}<p class="dim">{about}</p><div class="plot"><div id="{key}"></div></div></section>'
    )


def _no_scores(data: SweepData) -> str:
    return "" if data.rows else "No trial has finished an epoch yet."


def _no_importance(data: SweepData) -> str:
    complete = sum(row.state == "complete" for row in data.rows)
    if data.importance:
        return ""
    if complete < LEAST_FOR_IMPORTANCE:
        return (
            f"Not computed: {complete} trial(s) ran to their end, and it takes at least "
            f"{LEAST_FOR_IMPORTANCE}."
        )
    return "Not computed: all complete trials have the same score."


def _no_diagnostics(data: SweepData) -> str:
    return (
        ""
        if data.diagnostics
        else "The trials recorded no metrics of rotations and binary weights."
    )


SECTIONS = (
    (
        "history",
        "Optimisation history",
        f"{METRIC} of every trial's last epoch; the line is the best complete trial so far.",
        figures.history,
        _no_scores,
    ),
    (
        "curves",
        "Learning curves",
        f"{METRIC} by epoch; a cross marks where a trial was pruned.",
        figures.learning_curves,
        _no_scores,
    ),
    (
        "parallel",
        "Parallel coordinates",
        "Drag along an axis to select trials.",
        figures.parallel,
        _no_scores,
    ),
    (
        "importance",
        "Parameter importance",
        "PED-ANOVA over the trials that ran to their end.",
        figures.importance,
        _no_importance,
    ),
    (
        "slices",
        "Slices",
        "Each option by itself; open circles were pruned, later trials are more orange.",
        figures.slices,
        _no_scores,
    ),
    (
        "diagnostics",
        "Rotations and binary weights",
        "The method's own metrics of the best trials.",
        figures.diagnostics,
        _no_diagnostics,
    ),
)
