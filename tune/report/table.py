"""A sweep's trials as one table, for the terminal, for Markdown and for a page; and the verdict."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from typing import Any

from tune.sweep.table import BASELINE, METRIC, TrialRow, TrialTable, columns, percent, shown

PLAIN_WIDTH = 160
WORDS = ("state", "run", "")  # columns that are no numbers


def head(table: TrialTable) -> list[str]:
    """The columns; the last says what a trial is."""
    return ["trial", "state", "epochs", METRIC, *columns(list(table.rows.values())), "run", ""]


def cells(table: TrialTable, row: TrialRow) -> list[str]:
    """A trial's text in each column."""
    notes = [table.best_note] if row is table.best else []
    if row.number == BASELINE:
        notes.append("documented default")
    values = [shown(value) for value in row.options.values()]
    epochs = f"{row.epochs}/{row.values.get('epochs', table.num_epochs)}"
    return [
        str(row.number), row.shown_state, epochs, percent(row.top1), *values, row.run_id[:8],
        ", ".join(notes),
    ]  # fmt: skip


def top_rows(table: TrialTable, num_rows: int) -> list[TrialRow]:
    """The best trials, and the documented default where it is not among them."""
    rows = table.ranked[:num_rows]
    if table.baseline and table.baseline not in rows:
        rows.append(table.baseline)
    return rows


def plain_grid(names: Sequence[str], words: Sequence[str]) -> Any:
    """A table of rich's without lines, numbers to the right and `words` to the left."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        grid.add_column(name, justify="left" if name in words else "right")
    return grid


def as_rich(table: TrialTable, rows: Sequence[TrialRow]) -> Any:
    """For the terminal."""
    grid = plain_grid(head(table), WORDS)
    for row in rows:
        default = "cyan" if row.number == BASELINE else ""
        grid.add_row(*cells(table, row), style="bold" if row is table.best else default)
    return grid


def as_markdown(table: TrialTable, num_rows: int) -> list[str]:
    """Lines of a Markdown table; none where there is no trial."""
    rows = top_rows(table, num_rows)
    lines = [head(table), ["---"] * len(head(table))] if rows else []
    for row in rows:
        mark = "**" if row is table.best else ""
        lines.append([f"{mark}{text}{mark}" if text else "" for text in cells(table, row)])
    return [f"| {' | '.join(line)} |" for line in lines]


def as_html(table: TrialTable, num_rows: int) -> str:
    """A table that scrolls sideways where the page is narrow."""
    lines = [_html_row("th", head(table), head(table), "")]
    for row in top_rows(table, num_rows):
        kind = "best" if row is table.best else ""
        lines.append(_html_row("td", head(table), cells(table, row), kind))
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _html_row(tag: str, names: list[str], texts: list[str], kind: str) -> str:
    text = ""
    for name, cell in zip(names, texts, strict=True):
        align = ' class="word"' if name in WORDS else ""
        text += f"<{tag}{align}>{html.escape(cell)}</{tag}>"
    return f'<tr class="{kind}">{text}</tr>'


def print_table(table: TrialTable, num_rows: int) -> None:
    """Print the best trials, and the documented default."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    Console(width=width).print(as_rich(table, top_rows(table, num_rows)))


def verdict(table: TrialTable) -> str:
    """What the search gained over the documented default, in one sentence: of the last epochs, as
    trials are compared, with the best epochs where those were better.
    """
    best, base = table.best, table.baseline
    if best is None:
        return "no trial ran to its end"
    reached = f"val/top1 {percent(best.top1)} %"
    if best is base:
        number = len(table.rows)
        return f"the documented default is the best of {number} trials, {reached}{_peak(best)}"
    if base is None or base.top1 is None:
        none = "the documented default did not finish an epoch"
        return f"best: trial {best.number} with {reached}; {none}"
    gain = (best.top1 or 0.0) - base.top1
    stopped = "" if base.state == "complete" else f", {base.state} after {base.epochs} epochs"
    return (
        f"trial {best.number} reaches {reached}{_peak(best)}, {gain:+.2f} points against the "
        f"documented default's {percent(base.top1)} %{stopped}{_peak(base)}"
    )


def _peak(row: TrialRow) -> str:
    """The best epoch, where the last is not it."""
    if row.best_top1 is None or row.top1 is None or percent(row.best_top1) == percent(row.top1):
        return ""
    return f" (best epoch: {percent(row.best_top1)} % in epoch {row.best_epoch} of {row.epochs})"
