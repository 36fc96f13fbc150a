"""A sweep in the terminal: a live table where there is a terminal, plain lines elsewhere, and the
table at its end.
"""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from rbnn.console import finish_time
from tune.sweep.table import BASELINE, TrialRow, TrialTable, columns, percent, shown

PLAIN_INTERVAL_S = 10.0
NUM_LIVE_ROWS = 12


class SweepDisplay:
    """Shows a board as it changes; use as a context."""

    def __init__(self, board: TrialTable) -> None:
        self.board = board
        self.live: Any = None
        self._last_line = 0.0
        self._said: set[int] = set()

    def __enter__(self) -> SweepDisplay:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(get_renderable=self._renderable, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def changed(self, row: TrialRow) -> None:
        """A trial began, reported or ended."""
        if self.live:
            return
        epoch = f"epoch {row.epochs}/{self.board.num_epochs}"
        if row.state != "running":
            ended = (
                f"{row.state} after {row.epochs} epochs, val/top1 {percent(row.top1)} "
                f"%{_because(row)}"
            )
            say(f"{self.board.noun} {row.number} {ended}")
        elif row.number not in self._said:
            self._said.add(row.number)
            values = "  ".join(f"{name} {shown(value)}" for name, value in row.values.items())
            say(
                f"{self.board.noun} {row.number} "
                f"{f'goes on from {epoch}' if row.epochs else 'starts'}: {values}"
            )
        elif time.monotonic() - self._last_line < PLAIN_INTERVAL_S:
            return
        else:
            say(
                f"{self.board.noun} {row.number} {epoch}, val/top1 {percent(row.top1)} %; "
                f"{self.summary()}"
            )
        self._last_line = time.monotonic()

    def summary(self) -> str:
        """How far the sweep is, in one line."""
        left = self.board.seconds_left()
        tops = [row.best_top1 for row in self.board.rows.values() if row.best_top1 is not None]
        best = f"best top-1 {max(tops):.2f} %" if tops else "no epoch finished yet"
        with_confirmation = ", confirmation included" if self.board.epochs_after else ""
        finish = (
            f"finish about {finish_time(left)}{with_confirmation}"
            if left is not None
            else "finish not known yet"
        )
        of = f" of {self.board.num_trials}" if self.board.num_trials is not None else ""
        return f"{len(self.board.ended)}{of} {self.board.noun}s done, {best}, {finish}"

    def _renderable(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        recent = sorted(
            self.board.rows.values(), key=lambda row: (row.state == "running", row.number)
        )[-NUM_LIVE_ROWS:]
        return Group(table(self.board, recent), Text(self.summary()))


def say(line: str) -> None:
    """One plain line, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _because(row: TrialRow) -> str:
    return f": {row.cause}" if row.cause else ""


def table(board: TrialTable, rows: list[TrialRow]) -> Any:
    """The given trials with their values; trial 0 is marked as the documented default."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("trial", justify="right")
    grid.add_column("state")
    for name in ["epochs", "val/top1", *columns(list(board.rows.values()))]:
        grid.add_column(name, justify="right")
    grid.add_column("run")
    grid.add_column("")
    for row in rows:
        note = "documented default" if row.number == BASELINE else ""
        if row is board.best:
            note = board.best_note + (", the documented default itself" if note else "")
        values = [shown(value) for value in row.values.values()]
        grid.add_row(
            str(row.number), row.state, f"{row.epochs}/{board.num_epochs}", percent(row.top1),
            *values, row.run_id[:8], note,
            style="bold" if row is board.best else ("cyan" if row.number == BASELINE else ""),
        )  # fmt: skip
    return grid


def print_table(board: TrialTable, num_rows: int) -> str:
    """Print the best `num_rows` trials, and the documented default where it is not among them;
    returns it as plain text.
    """
    from rich.console import Console

    rows = board.ranked[:num_rows]
    if board.baseline and board.baseline not in rows:
        rows.append(board.baseline)
    grid = table(board, rows)
    Console(width=None if sys.stdout.isatty() else 160).print(grid)
    plain = Console(width=160, no_color=True, record=True, file=io.StringIO())
    plain.print(grid)
    return plain.export_text()


def verdict(board: TrialTable) -> str:
    """What the search gained over the documented default, in one sentence."""
    best, base = board.best, board.baseline
    if best is None:
        return "no trial ran to its end"
    if base is None or base.top1 is None:
        return (
            f"best: trial {best.number} with val/top1 {percent(best.top1)} %; the documented "
            "default did not finish an epoch"
        )
    if best is base:
        return (
            f"the documented default is the best of {len(board.rows)} trials, val/top1 "
            f"{percent(base.top1)} %"
        )
    gain = (best.top1 or 0.0) - base.top1
    stopped = (
        ""
        if base.state == "complete"
        else f", where it was {base.state} after {base.epochs} epochs"
    )
    return (
        f"trial {best.number} reaches val/top1 {percent(best.top1)} %, {gain:+.2f} points against "
        "the documented default's "
        f"{percent(base.top1)} %{stopped}"
    )
