"""`rbnn data`: data sets on disk."""

from __future__ import annotations

import argparse

from tune.commands.adding import Add


def add(command: Add) -> None:
    """The parser of this command."""
    data = command("data", data_set, "prepare a data set, or check the one that is there")
    data.add_argument("action", choices=["prepare", "check"], help="prepare: download, verify, unpack; check: count and decode")
    data.add_argument("name", metavar="NAME", help="data set")
    data.add_argument("--data_path", default="./data", metavar="DIR", help="folder that holds it (default ./data)")
    data.add_argument("--url", metavar="URL", help="prepare: where to download from (default: the official address)")


def data_set(args: argparse.Namespace) -> int:
    """Download, verify and unpack a data set; or count its images and name the damaged ones (exit status 1 then)."""
    if args.action == "prepare":
        from rbnn.data.prepare import prepare

        print(prepare(args.name, args.data_path, url=args.url))
        return 0
    from rbnn.data.check import check

    report = check(args.name, args.data_path)
    print(*report.lines(), sep="\n")
    return 0 if report.ok else 1
