"""`python -m benchmarks.search fill`: train what the table of real trainings lacks. `compare`: play
ways to search on it and on synthetic objectives.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rbnn.options import OneLineParser
from rbnn.threading_env import set_threading


def parser() -> OneLineParser:
    """The command line."""
    top = OneLineParser(prog="python -m benchmarks.search", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, parser_class=OneLineParser)
    fill = commands.add_parser("fill", help="train what the table lacks; goes on where it stopped")
    fill.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    fill.add_argument(
        "--data_path", default="", help="folder of CIFAR-10; digits need none", metavar="FOLDER"
    )
    fill.add_argument("--processes", type=int, default=2, help="trainings at once, a core each")
    compare = commands.add_parser("compare", help="simulate ways to search; goes on as fill does")
    compare.add_argument(
        "file", type=Path, help="where the simulated searches are kept, a line each"
    )
    compare.add_argument("--seeds", type=int, default=30, help="searches of each way")
    compare.add_argument("--objectives", nargs="+", default=["digits", "bowl"], metavar="NAME")
    compare.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="default: all")
    compare.add_argument("--processes", type=int, default=2)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parser().parse_args(arguments)
    set_threading()
    if args.command == "fill":
        from benchmarks.search.fill import fill

        if args.data == "cifar10" and not args.data_path:
            print("fill --data cifar10 needs --data_path, the folder of CIFAR-10", file=sys.stderr)
            return 2
        fill(args.data, args.data_path, args.processes)
    else:
        from benchmarks.search.compare import METHODS, OBJECTIVES, compare

        for given, known in ((args.objectives, OBJECTIVES), (args.methods, METHODS)):
            if unknown := [name for name in given if name not in known]:
                names = ", ".join(f"'{name}'" for name in known)
                print(f"'{unknown[0]}' is unknown; choose of {names}", file=sys.stderr)
                return 2
        if not args.file.absolute().parent.is_dir():
            print(f"{args.file}: its folder does not exist; make it first", file=sys.stderr)
            return 2
        compare(args.objectives, args.methods or METHODS, args.seeds, args.file, args.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
