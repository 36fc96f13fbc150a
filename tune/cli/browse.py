"""`rbnn ui`, `report`, `best`: what was recorded, in MLflow's pages, as a report, as a winner."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rbnn.errors import RequestError
from rbnn.packed.command import PACKAGE_DEFAULTS
from tune.cli import ANY_SWEEP, JSON, RESULTS, SWEEP, Add, arg, flag

if TYPE_CHECKING:
    from tune.sweep.folder import SweepFolder


def add(command: Add) -> None:
    """The parsers of these commands."""
    port = arg("--port", type=int, default=5000, help="port (default 5000, or the next free one)")
    host = arg("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    text = "open MLflow's pages on the recorded runs, with a link straight to a sweep's trials"
    optuna = flag("--optuna", "show the sweep's study in optuna-dashboard instead")
    command("ui", ui, text, [ANY_SWEEP, optuna, port, host, RESULTS])
    out = arg("--out", show="DIR", default="", help="folder to write into (default: the sweep's)")
    text = "write what a sweep found: an interactive page, a picture and a table"
    command("report", report, text, [ANY_SWEEP, out, RESULTS, JSON])
    file = arg("--export", show="FILE", help="write it as a recipe file, for rbnn replay")
    champion = flag("--register", "register the confirmed winner in MLflow, champion if it is best")
    text = "the best setting of a sweep, and as a recipe file"
    out = arg("--package", dest="out", show="FOLDER", help="package it, as rbnn package does")
    parser = command("best", best, text, [SWEEP, file, JSON, champion, out, RESULTS])
    parser.set_defaults(**PACKAGE_DEFAULTS)


def ui(args: argparse.Namespace) -> int:
    """Serve MLflow's pages, or Optuna's, until Ctrl-C."""
    if args.optuna:
        from tune.serve.ui import serve_optuna

        serve_optuna(latest_or(args.sweep, args.results_dir), args.port, args.host)
        return 0
    from tune.tracking.address import SWEEP as KNOWN
    from tune.tracking.address import may_hold, tracking_uri
    from tune.uris import shown

    if args.sweep and not may_hold(KNOWN, {"word": args.sweep}):
        where = shown(tracking_uri())
        raise RequestError(f"sweep '{args.sweep}' in {where} is unknown; see rbnn status")
    from tune.serve.ui import serve_ui

    serve_ui(tracking_uri(), args.port, args.host, sweep=args.sweep)
    return 0


def report(args: argparse.Namespace) -> int:
    """Write a sweep's report, log it to its run where the store answers, print the table."""
    from tune.report.console import print_summary
    from tune.report.page import write_report
    from tune.report.table import verdict
    from tune.tracking.mirror import Mirror

    folder = latest_or(args.sweep, args.results_dir)
    written = write_report(folder, Path(args.out) if args.out else None)
    if args.json:
        print(json.dumps(written.to_dict(), indent=2))
    else:
        print_summary(written.data.summary)
        print(f"\n{verdict(written.data.table)}")
        print(f"report: {written.files[0]}  {written.files[1]}")
    try:
        Mirror.open(folder.store_uri()).sync(folder.directory)
    # A store that is away, a run that was deleted there: the report is written all the same.
    except Exception as error:
        print(f"rbnn: the report is written, and not logged: {error}", file=sys.stderr)
    return 0


def latest_or(name: str, results_dir: str) -> SweepFolder:
    """The sweep of that name, or the latest; RequestError where there is none."""
    from tune.sweep.folder import find_sweep, sweep_folders

    known = sweep_folders(results_dir)
    if not name and not known:
        raise RequestError("there is no sweep here; start one with rbnn sweep, or give its folder")
    return find_sweep(name, results_dir) if name else known[-1]


def best(args: argparse.Namespace) -> int:
    """Print, export, register or package the winner."""
    if args.json and args.out:
        raise RequestError("--json goes without --package, whose report is a file: report.json")
    from tune.sweep.folder import find_sweep
    from tune.sweep.summary import export, lines_of, winner_of

    folder = find_sweep(args.sweep, args.results_dir)
    winner, name = winner_of(folder), folder.record.name
    if args.export:
        file = Path(args.export)
        if not file.parent.is_dir():
            raise RequestError(
                f"--export {file}: the folder {file.parent} does not exist; create it, or name "
                "another file"
            )
        export(winner, name, file)
    registered = None
    if args.register:
        from tune.tracking.reader import RunReader
        from tune.tracking.registry import candidate_of, register_champion

        reader = RunReader.open(folder.store_uri())
        registered = register_champion(reader, candidate_of(winner, name, reader))
    if args.json:
        more = {"registered": vars(registered)} if registered else {}
        print(json.dumps(winner.to_dict() | more, indent=1))
    else:
        print(*lines_of(winner, name), sep="\n")
        if args.export:
            print(f"recipe written to {file}; run it: rbnn replay {file}")
        elif not registered:
            print(f"as a recipe file: rbnn best {folder.handle} --export FILE")
        if registered:
            print(registered.text)
    packaged = 0
    if args.out:
        from tune.cli.runs import package_recorded
        from tune.tracking.reader import RunReader

        packaged = package_recorded(winner.row.run_id, RunReader.open(folder.store_uri()), args)
    return packaged if registered is None or registered.champion else 1
