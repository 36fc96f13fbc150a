"""`python -m rbnn train | evaluate | package`: train, evaluate and package in this process, with
neither Ray nor MLflow.
"""

from __future__ import annotations

import json
import sys

from rbnn.console import EpochPrinter, evaluation_lines, show_any_character
from rbnn.errors import RequestError, RunFailed
from rbnn.options import OneLineParser, add_recipe_options, exit_status, recipe_from
from rbnn.packed.command import (
    add_engine_option,
    add_package_options,
    evaluate_package,
    is_package,
    package,
    refuse_engine,
)
from rbnn.threading_env import set_threading


def parser() -> OneLineParser:
    """The command line of `python -m rbnn`."""
    top = OneLineParser(prog="python -m rbnn", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, parser_class=OneLineParser)
    train = commands.add_parser("train", help="train a recipe")
    add_recipe_options(train)
    evaluate = commands.add_parser("evaluate", help="evaluate a checkpoint file")
    evaluate.add_argument("file", help="checkpoint, ours or the RBNN authors', or package")
    add_engine_option(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    add_recipe_options(evaluate, positional=False)
    evaluate.set_defaults(start_from=None)
    making = commands.add_parser("package", help="make a package of a checkpoint file")
    making.add_argument("file", help="checkpoint file, or folder of a run")
    add_package_options(making)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    show_any_character()
    args = parser().parse_args(arguments)
    set_threading()
    try:
        if args.command == "package":
            return 0 if package(args.file, args).agrees else 1
        if args.command == "evaluate":
            if is_package(args.file):
                return evaluate_package(args.file, args)
            refuse_engine(args)
            args.evaluate = args.file
        recipe = recipe_from(args)
        from rbnn.session import evaluate_file, resolve, train

        if recipe.evaluate:
            metrics, info = evaluate_file(resolve(recipe), recipe.evaluate)
            if getattr(args, "json", False):
                print(json.dumps({"file": recipe.evaluate, "data": info.name, **metrics}))
            else:
                print(
                    *evaluation_lines(recipe.evaluate, metrics, info.sizes["validation"]), sep="\n"
                )
            return 0
        done = train(recipe, shown=EpochPrinter)
        print(f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}")
        return 0
    except (RequestError, RunFailed) as error:
        return exit_status(error, "rbnn")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
