"""Progress of long work: a bar that redraws itself in a terminal or a notebook, a plain line for
every tenth otherwise; and a word on what takes longer than one would think.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rbnn.console import finish_time

Progress = Callable[[float, float], None]
REDRAW_S = 0.1
LINE_EVERY = 100  # units between two plain lines where the total is not known
PATIENCE_S = 2.0


def printer(name: str, unit: str, size: int = 1) -> Callable[..., None]:
    """show(done, total, note) says how much is done, the pace and the finish time, on standard
    error or in a notebook; total 0: not known.

    unit: what is counted, e.g. "MiB", each being `size` of done and total. The pace is that since
    the first call, as what was done before (by an earlier download) took no time now.
    """
    first: list[tuple[float, float]] = []
    last = [-1]
    drawn = [0.0]
    draw = drawing()

    def amount(value: float) -> str:
        whole = size == 1 and float(value).is_integer()
        return f"{value:.0f}" if whole else f"{value / size:.1f}"

    def rate(value: float) -> str:
        return f"{value / size:.1f}" if size > 1 or value < 10 else f"{value:,.0f}"

    def text(now: float, done: float, total: float, note: str) -> str:
        line = f"{name}: {amount(done)}{f' of {amount(total)}' if total else ''} {unit}"
        began, before = first[0]
        pace = (done - before) / (now - began) if now > began else 0.0
        if pace:
            line += f", {rate(pace)} {unit}/s"
        if note:
            line += f", {note}"
        if pace and done < total:
            line += f", finish {finish_time((total - done) / pace)}"
        return line

    def show(done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if not first:
            first.append((now, done))
        tenths = int(10 * done // total if total else done // (LINE_EVERY * size))
        if draw:
            if done == total or now - drawn[0] >= REDRAW_S:
                draw(done, total, text(now, done, total, note))
                drawn[0] = now
        elif tenths != last[0]:
            print(text(now, done, total, note), file=sys.stderr, flush=True)
        last[0] = tenths

    return show


def drawing() -> Callable[[float, float, str], None] | None:
    """What draws a bar (done, total, text); None where only lines can be printed."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ == "ZMQInteractiveShell":  # a notebook's kernel
        return _in_a_notebook()
    return _in_the_terminal if sys.stderr.isatty() else None


def _in_the_terminal(done: float, total: float, text: str) -> None:
    bar = f"[{'#' * int(20 * done // total):20}] " if total else ""
    end = "\n" if done == total else ""
    print(f"\r{bar}{text}\x1b[K", end=end, file=sys.stderr, flush=True)


def _in_a_notebook() -> Callable[[float, float, str], None]:
    from IPython.display import HTML, display

    shown: list[Any] = []

    def draw(done: float, total: float, text: str) -> None:
        bar = f'<progress value="{done}" max="{total}"></progress> ' if total else ""
        page = HTML(f"{bar}{html.escape(text)}")
        if shown:
            shown[0].update(page)
        else:
            shown.append(display(page, display_id=True))

    return draw


@contextmanager
def told_if_long(what: str) -> Iterator[None]:
    """Says on standard error what goes on within it where that takes over two seconds, and how long
    it took.
    """
    began = time.monotonic()
    timer = threading.Timer(PATIENCE_S, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if (spent := time.monotonic() - began) >= PATIENCE_S:
            print(f"{what}: {spent:.0f} s", file=sys.stderr, flush=True)
