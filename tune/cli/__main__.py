"""The command `rbnn`: parses, calls, prints.

Exit status: 0 done, 1 the run failed or a verdict is negative, 2 the request is wrong (one line
says what, and what to do).
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import rbnn
from rbnn.errors import RequestError, RunFailed
from rbnn.options import OneLineParser, exit_status
from rbnn.threading_env import set_threading
from tune.cli import Argument, Run, browse, cluster, data, doctor, runs, sweeps

INTERRUPTED = 130
JOBS = {  # what people come for -> the commands for it; the others stand under OTHERS
    "search hyperparameters": ("sweep", "resume", "extend", "stop", "status", "best"),
    "train, reproduce, deploy": (
        "recipes", "train", "evaluate", "replay", "diff", "export", "package"
    ),
    "browse what was recorded": ("ui", "report"),
}  # fmt: skip
OTHERS = "data sets, stores, clusters"


def parser() -> OneLineParser:
    """Every command with its options."""
    top = OneLineParser(
        prog="rbnn",
        usage="rbnn COMMAND ...",
        description="Train, tune and reproduce rotated binary neural networks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rbnn {rbnn.__version__}")
    commands = top.add_subparsers(
        dest="command",
        required=True,
        prog="rbnn",
        metavar="COMMAND",
        parser_class=OneLineParser,
        help=argparse.SUPPRESS,
    )
    about: dict[str, str] = {}

    def add_command(
        name: str, run: Run, text: str, arguments: Sequence[Argument] = ()
    ) -> argparse.ArgumentParser:
        about[name] = text
        added = commands.add_parser(name, description=text)
        added.set_defaults(run=run)
        for names, given in arguments:
            added.add_argument(*names, **given)
        return added

    for group in (runs, sweeps, browse, doctor, cluster, data):
        group.add(add_command)
    top.epilog = grouped(about)
    return top


def grouped(about: dict[str, str]) -> str:
    """The commands, each with what it does, under the job that it is for."""
    others = about.keys() - {name for names in JOBS.values() for name in names}
    lines = []
    for job, names in {**JOBS, OTHERS: sorted(others)}.items():
        lines += ["", f"{job}:"]
        for name in names:
            text = textwrap.wrap(about[name], 80, subsequent_indent=" " * 12)
            lines.append("\n".join([f"  {name:10}{text[0]}", *text[1:]]))
    return "\n".join([*lines, "", "options of a command: rbnn COMMAND --help"])


class Output:
    """A stream whose writing never fails: what nobody can read any more, as the terminal closed,
    the reader ended or the disk is full, is dropped, and letters that it lacks are spelt out.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except (OSError, ValueError):
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self) -> None:
        """Let what is written from here on, and what Python flushes at its end, go nowhere."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parser().parse_args(arguments)
    set_threading()
    try:
        status: int = args.run(args)
        return status
    except (RequestError, RunFailed) as error:
        return exit_status(error, "rbnn")
    except Exception as error:
        from tune.run.failure import disk_trouble, full_disk

        if trouble := disk_trouble(error):
            return exit_status(RunFailed("; ".join(full_disk(trouble))), "rbnn")
        raise
    except KeyboardInterrupt:
        print("rbnn: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED


def command() -> int:
    """The command `rbnn` as a process of its own."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks how a line that is being typed goes on
        import argcomplete

        argcomplete.autocomplete(parser())
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    return main()


if __name__ == "__main__":
    sys.exit(command())
