"""`make bench`: one table of ratios, ours / baseline, each measured in this run; below 1 ours is
cheaper.

The short form takes under three minutes on two cores, one of them for compiling where nothing is
compiled yet; --full adds the larger networks, and rounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.options import OneLineParser
from rbnn.threading_env import set_threading

if TYPE_CHECKING:
    from benchmarks.measure import Benchmark, Row

HEADER = ("what", "ratio", "min..max", "rounds", "ours", "theirs", "baseline")


def parser() -> OneLineParser:
    """The command line."""
    top = OneLineParser(prog="python -m benchmarks", description=__doc__)
    top.add_argument(
        "--full", action="store_true", help="all rows, more rounds (about half an hour)"
    )
    top.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write the rows and what the machine is to FILE",
    )
    top.add_argument(
        "--markdown",
        metavar="FILE",
        type=Path,
        help="also write the table to FILE (the record: RESULTS.md)",
    )
    top.add_argument(
        "--only",
        metavar="PATTERN",
        default="*",
        help='only benchmarks whose name holds it, e.g. "loader*dali"',
    )
    top.add_argument("--device", choices=("cpu", "cuda"), default="", help="only on this device")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that were asked for, a line each as it is known; returns the
    exit status.
    """
    args = parser().parse_args(arguments)
    set_threading()
    from benchmarks.measure import Setting
    from benchmarks.registry import BENCHMARKS

    chosen = [
        one
        for one in BENCHMARKS
        if fnmatch(one.name, f"*{args.only}*") and (args.full or not one.full_only)
    ]
    if not chosen:
        print(
            f"--only '{args.only}' matches none of: {', '.join(one.name for one in BENCHMARKS)}",
            file=sys.stderr,
        )
        return 2
    missing = [path for path in (args.json, args.markdown) if path and not path.parent.is_dir()]
    if missing:
        print(
            f"python -m benchmarks: the folder of '{missing[0]}' does not exist; create it, or "
            "name another",
            file=sys.stderr,
        )
        return 2
    record: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "full": args.full,
        "only": args.only,
    }
    record |= machine()
    print(
        f"{record['cpu']}, {record['cores']} cores, torch {record['torch']}, commit "
        f"{record['commit'][:10] or 'unknown'}"
    )
    print("ratio: ours / baseline, median of the rounds; below 1 ours is cheaper\n")
    print(line(*HEADER))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rbnn-bench-") as folder:
        began = time.perf_counter()
        for benchmark in chosen:
            rows += shown(benchmark, Setting(args.full, Path(folder), args.device))
            keep(record, rows, args.json, args.markdown)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    print(f"\n{len(rows)} rows in {minutes}:{seconds:02}")
    return 0


def keep(
    record: dict[str, Any], rows: list[Row], json_file: Path | None, markdown_file: Path | None
) -> None:
    """Write what is known so far: an interrupted run keeps its rows."""
    if json_file:
        record["rows"] = [
            vars(row) | ({"median": row.median} if row.ratios else {}) for row in rows
        ]
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    if markdown_file:
        markdown_file.write_text("\n".join(markdown(record, rows)) + "\n")


def markdown(record: dict[str, Any], rows: list[Row]) -> Iterator[str]:
    """The table of record: what it was measured on, then a line per row."""
    yield "# Results of record\n"
    options = " --full" * record["full"] + f' --only "{record["only"]}"' * (record["only"] != "*")
    yield f"`python -m benchmarks{options}`, {record['date']}, commit {record['commit'][:10]}"
    yield (
        f"{'(tree changed)' if record['dirty'] == 'true' else '(tree clean)'}; {record['cpu']}, "
        f"{record['cores']} cores,"
    )
    yield f"{record['gpus'] or 'no GPU'}, torch {record['torch']}.\n"
    yield (
        "Ratios are ours / baseline, measured in turns in this run, median of the rounds; below 1 "
        "ours is cheaper.\n"
    )
    yield "| what | ratio | min..max | ours | baseline's | baseline |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        if row.ratios:
            spread = f"{min(row.ratios):.2f}..{max(row.ratios):.2f}"
            figures = (
                f"{row.median:.2f} | {spread} | {row.ours:.3g} {row.unit} | {row.theirs:.3g} "
                f"{row.unit}"
            )
        else:
            figures = "- | | |"
        yield f"| {row.name}{note} | {figures} | {row.baseline} |"


def shown(benchmark: Benchmark, setting: Any) -> list[Row]:
    """The rows of one benchmark, printed."""
    rows = benchmark.rows(setting)
    for row in rows:
        if row.ratios:
            spread = f"{min(row.ratios):.2f}..{max(row.ratios):.2f}"
            ours, theirs = (f"{value:.3g} {row.unit}" for value in (row.ours, row.theirs))
            print(
                line(
                    row.name,
                    f"{row.median:.2f}",
                    spread,
                    str(len(row.ratios)),
                    ours,
                    theirs,
                    row.baseline,
                )
            )
        else:
            print(line(row.name, "-", "", "", "", "", row.baseline))
        if row.note:
            print(f"    {row.note}")
    sys.stdout.flush()
    return rows


def line(
    what: str, ratio: str, spread: str, rounds: str, ours: str, theirs: str, baseline: str
) -> str:
    """One line of the table."""
    figures = f"{ratio:>6} {spread:>13} {rounds:>6} {ours:>10} {theirs:>10}"
    return f"{what:48} {figures}  {baseline}".rstrip()


def machine() -> dict[str, str]:
    """What this ran on, and the commit."""
    from tune.run.environment import environment

    env = environment()
    names = {
        "cpu": "cpu",
        "cores": "cores",
        "gpus": "gpus",
        "torch": "torch",
        "commit": "git_commit",
        "dirty": "git_dirty",
    }
    return {name: env[key] for name, key in names.items()}


if __name__ == "__main__":
    sys.exit(main())
