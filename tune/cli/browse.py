"""`rbnn ui` and `rbnn report`: what was recorded, in MLflow's pages and as a report."""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Iterator

from tune.cli.adding import Add


def add(command: Add) -> None:
    """The parsers of these commands."""
    page = command(
        "ui",
        ui,
        "open MLflow's pages on the recorded runs, with a link straight to a sweep's trials",
    )
    page.add_argument(
        "sweep",
        nargs="?",
        default="",
        metavar="SWEEP",
        help="sweep to link to (default: the latest)",
    )
    page.add_argument(
        "--port",
        type=int,
        default=5000,
        help="port (default 5000; the next free one if it is taken)",
    )
    page.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )

    paper = command(
        "report", report, "write what a sweep found: an interactive page, a picture and a table"
    )
    paper.add_argument(
        "sweep", nargs="?", default="", metavar="SWEEP", help="name or folder (default: the latest)"
    )
    paper.add_argument(
        "--out", default="", metavar="DIR", help="folder to write into (default: the sweep's own)"
    )
    paper.add_argument(
        "--results_dir",
        default="",
        metavar="DIR",
        help="folder that holds the sweeps (default ./result)",
    )
    paper.add_argument("--json", action="store_true", help="print what the report shows as JSON")


def ui(args: argparse.Namespace) -> int:
    """Serve MLflow's pages until Ctrl-C."""
    from tune.serve.ui import serve_ui
    from tune.tracking.address import tracking_uri

    serve_ui(tracking_uri(), args.port, args.host, sweep=args.sweep)
    return 0


def report(args: argparse.Namespace) -> int:
    """Write a sweep's report, log it to the sweep's run where the store answers, and print the
    table.
    """
    with uncollected():
        return _report(args)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within it, nothing looks for garbage, and at the process's end nothing does among what it
    made.

    A report of a thousand trials makes a few hundred thousand objects and no garbage to speak of;
    looking through them took a third of its time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _report(args: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from rbnn.errors import RequestError
    from tune.report.write import log_report, write_report
    from tune.sweep.folder import find_sweep, sweep_folders
    from tune.sweep.summary import print_standing

    known = sweep_folders(args.results_dir)
    if not args.sweep and not known:
        raise RequestError("there is no sweep here; start one with rbnn sweep, or give its folder")
    folder = find_sweep(args.sweep, args.results_dir) if args.sweep else known[-1]
    written = write_report(folder, Path(args.out) if args.out else None)
    if args.json:
        print(json.dumps(written.to_dict(), indent=2))
    else:
        print_standing(written.data.standing)
        print(f"report: {written.files[0]}  {written.files[1]}")
    if not folder.record.parent:
        return 0
    from mlflow.exceptions import MlflowException

    from tune.tracking.mirror import Tracker

    try:
        log_report(written, folder, Tracker.open(uri=folder.record.store))
    except (RequestError, MlflowException) as error:  # a store that is away, a run deleted there
        print(f"rbnn: the report is written, and not logged: {error}", file=sys.stderr)
    return 0
