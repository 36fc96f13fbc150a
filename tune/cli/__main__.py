"""The command `rbnn`: parses, calls, prints.

Exit status: 0 done, 1 the run failed or a verdict is negative, 2 the request is wrong (one line
says what, and what to do).
"""

from __future__ import annotations

import argparse
import sys

from rbnn.errors import RequestError, RunFailed
from rbnn.options import OneLineParser, exit_status
from rbnn.threading_env import set_threading
from tune.cli import browse, cluster, data, package, runs, sweep, sweeps
from tune.cli.adding import Run

INTERRUPTED = 130


def parser() -> OneLineParser:
    """Every command with its options."""
    top = OneLineParser(
        prog="rbnn", description="Train, tune and reproduce rotated binary neural networks."
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser
    )

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    for group in (runs, package, sweeps, sweep, browse, cluster, data):
        group.add(command)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parser().parse_args(arguments)
    set_threading()
    try:
        status: int = args.run(args)
        return status
    except (RequestError, RunFailed) as error:
        return exit_status(error, "rbnn")
    except KeyboardInterrupt:
        print("rbnn: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
