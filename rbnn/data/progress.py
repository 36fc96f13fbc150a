"""Progress of long work on files: a bar that redraws itself on a terminal, a plain line for every
tenth otherwise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rbnn.console import finish_time

Progress = Callable[[int, int], None]
REDRAW_S = 0.1
LINE_EVERY = 100  # units between two plain lines where the total is not known


def printer(name: str, unit: str, size: int = 1) -> Progress:
    """show(done, total) prints to standard error how much is done, the pace and the finish time;
    total 0: not known.

    unit: what is counted, e.g. "MiB", each being `size` of done and total. The pace is that since
    the first call, as what was done before (by an earlier download) took no time now.
    """
    first: list[tuple[float, int]] = []
    last = [-1]
    drawn = [0.0]

    def amount(value: float) -> str:
        return f"{value / size:.1f}" if size > 1 else f"{value:.0f}"

    def text(now: float, done: int, total: int) -> str:
        line = f"{name}: {amount(done)}{f' of {amount(total)}' if total else ''} {unit}"
        began, before = first[0]
        pace = (done - before) / (now - began) if now > began else 0.0
        if pace:
            line += f", {amount(pace)} {unit}/s"
        if pace and done < total:
            line += f", finish {finish_time((total - done) / pace)}"
        return line

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if not first:
            first.append((now, done))
        tenths = 10 * done // total if total else done // (LINE_EVERY * size)
        if sys.stderr.isatty():
            if done == total or now - drawn[0] >= REDRAW_S:
                bar = f"[{'#' * (20 * done // total):20}] " if total else ""
                end = "\n" if done == total else ""
                print(
                    f"\r{bar}{text(now, done, total)}\x1b[K", end=end, file=sys.stderr, flush=True
                )
                drawn[0] = now
        elif tenths != last[0]:
            print(text(now, done, total), file=sys.stderr, flush=True)
        last[0] = tenths

    return show
