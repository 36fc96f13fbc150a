"""`python -m benchmarks.plain_loop OPTIONS`: `python -m rbnn train OPTIONS`, with the time of each
epoch to the millisecond.

Prints a line per epoch: when it was known (seconds since 1970), and its time/epoch_s.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rbnn.__main__ import parser
from rbnn.threading_env import set_threading


def main() -> None:
    """Train the recipe of the command line."""
    set_threading()
    from rbnn.console import run_directory
    from rbnn.options import recipe_from
    from rbnn.session import Session, resolve

    recipe = resolve(recipe_from(parser().parse_args(["train", *sys.argv[1:]])))

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        print(time.time(), metrics["time/epoch_s"], flush=True)

    Session.open(recipe, run_directory(recipe)).train(report)


if __name__ == "__main__":
    main()
