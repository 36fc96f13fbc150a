"""`rbnn data`: data sets on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rbnn.errors import RequestError
from tune.cli import Add, arg, flag


def add(command: Add) -> None:
    """The parser of this command."""
    text = "prepare: download, verify, unpack; check: count and decode"
    arguments = [
        arg("action", choices=["prepare", "check"], help=text),
        arg("name", show="NAME", help="data set"),
        arg("--data_path", show="DIR", default="./data", help="its folder (default ./data)"),
        arg("--url", show="URL", help="prepare: download from there, not the official address"),
        flag("--json", "check: print what was found as JSON"),
    ]
    command("data", data_set, "prepare a data set, or check the one that is there", arguments)


def data_set(args: argparse.Namespace) -> int:
    """Download, verify and unpack a data set; or count its images, status 1 for damaged ones."""
    if args.action == "prepare":
        from rbnn.data.prepare import prepare

        if args.json:
            raise RequestError("--json goes with rbnn data check")
        print(prepare(args.name, args.data_path, url=args.url))
        return 0
    from rbnn.data.check import check
    from rbnn.data.progress import printer

    if args.url:
        raise RequestError(
            "--url goes with rbnn data prepare; give check the folder, --data_path DIR"
        )
    report = check(args.name, args.data_path, printer(f"{args.name}: decoded", "images"))
    if args.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print(*report.lines(), sep="\n")
    return 0 if report.ok else 1
