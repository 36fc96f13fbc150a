"""`rbnn data`: data sets on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rbnn.errors import RequestError
from tune.cli.adding import Add


def add(command: Add) -> None:
    """The parser of this command."""
    data = command("data", data_set, "prepare a data set, or check the one that is there")
    data.add_argument(
        "action",
        choices=["prepare", "check"],
        help="prepare: download, verify, unpack; check: count and decode",
    )
    data.add_argument("name", metavar="NAME", help="data set")
    data.add_argument(
        "--data_path", default="./data", metavar="DIR", help="folder that holds it (default ./data)"
    )
    data.add_argument(
        "--url",
        metavar="URL",
        help="prepare: where to download from (default: the official address)",
    )
    data.add_argument("--json", action="store_true", help="check: print what was found as JSON")


def data_set(args: argparse.Namespace) -> int:
    """Download, verify and unpack a data set; or count its images and name the damaged ones (exit
    status 1 then).
    """
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
