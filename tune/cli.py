"""The command `rbnn`: parses, calls, prints. Everything heavy is imported by the command that needs it.

Exit status: 0 done, 1 the run failed, 2 the request is wrong (one line says what, and what to do instead).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from rbnn.errors import RequestError, RunFailed
from rbnn.options import OneLineParser, add_recipe_options, exit_status, given_options, recipe_from
from rbnn.threading_env import set_threading

INTERRUPTED = 130


def parser() -> OneLineParser:
    """Every command with its options."""
    top = OneLineParser(prog="rbnn", description="Train, tune and reproduce rotated binary neural networks.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    recipes = command("recipes", list_recipes, "list the named recipes with their documented accuracies")
    recipes.add_argument("--json", action="store_true", help="print them as JSON")

    add_recipe_options(command("train", train, "train a recipe and record it in MLflow"))

    again = command("replay", replay, "run a named recipe, a recipe file or a recorded run again")
    again.add_argument("target", metavar="RECIPE|RUN_ID", help="recipe name or file, or the id of a recorded run")
    add_recipe_options(again, positional=False)

    evaluation = command("evaluate", evaluate, "evaluate a checkpoint: one of ours, or one of the RBNN authors'")
    evaluation.add_argument("file", metavar="FILE", help="checkpoint file, or folder of a run")
    evaluation.add_argument("--json", action="store_true", help="print the metrics as JSON")
    add_recipe_options(evaluation, positional=False)
    evaluation.set_defaults(start_from=None)

    search = command("sweep", sweep, "search hyperparameters: a sweep file's space, the documented default as trial 0")
    search.add_argument("file", metavar="FILE", help="sweep file, e.g. experiments/quickstart.yaml")
    search.add_argument("--name", default="", help="name of the sweep (default: the file's, and the time)")
    search.add_argument("--trials", type=int, metavar="N", help="number of trials, instead of the file's")
    search.add_argument("--concurrent", type=int, metavar="N", help="trials at once (default: as the machine allows)")
    search.add_argument("--time-budget", type=float, metavar="MINUTES", help="start nothing after so many minutes, and stop")
    search.add_argument("--seed", type=int, metavar="N", help="seed of the sampler")
    search.add_argument("--results_dir", default="", metavar="DIR", help="folder that the sweep's folder goes under")

    page = command("ui", ui, "open MLflow's pages on the recorded runs, with a link straight to a sweep's trials")
    page.add_argument("sweep", nargs="?", default="", metavar="SWEEP", help="sweep to link to (default: the latest)")
    page.add_argument("--port", type=int, default=5000, help="port (default 5000; the next free one if it is taken)")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")

    data = command("data", data_set, "prepare a data set, or check the one that is there")
    data.add_argument("action", choices=["prepare", "check"], help="prepare: download, verify, unpack; check: count and decode")
    data.add_argument("name", metavar="NAME", help="data set")
    data.add_argument("--data_path", default="./data", metavar="DIR", help="folder that holds it (default ./data)")
    data.add_argument("--url", metavar="URL", help="prepare: where to download from (default: the official address)")
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


def list_recipes(args: argparse.Namespace) -> int:
    """Print the named recipes."""
    from rbnn.documented import documented_accuracies
    from rbnn.recipe import load_recipe, recipe_files

    documented = documented_accuracies()
    rows = []
    for name in recipe_files():
        recipe, figures = load_recipe(name), documented.get(name, {})
        rows.append(
            {"name": name, **{key: getattr(recipe, key) for key in ("dataset", "model", "epochs", "batch_size")}, **figures}
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'recipe':36} {'data set':9} {'model':15} {'epochs':>6} {'batch':>6}  documented top-1 / top-5")
    for row in rows:
        shown = " / ".join(f"{row[key]:g}" for key in ("top1", "top5") if key in row) or "none given"
        print(f"{row['name']:36} {row['dataset']:9} {row['model']:15} {row['epochs']:6} {row['batch_size']:6}  {shown}")
    print("run one: rbnn replay RECIPE      shorten it: rbnn replay RECIPE --epochs 400")
    return 0


def train(args: argparse.Namespace) -> int:
    """Train and record."""
    recipe = recipe_from(args)
    if recipe.evaluate:
        args.file, args.json = recipe.evaluate, False
        return evaluate(args)
    from tune.runs import train_recorded
    from tune.tracking import Tracker

    name = args.start_from_option or args.start_from or f"{recipe.dataset}_{recipe.model}"
    done = train_recorded(recipe, Tracker.open(), name=name)
    print(f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}; run {done.run_id}")
    print(f"again, to the bit: rbnn replay {done.run_id[:8]}      see it: rbnn ui")
    return 0


def replay(args: argparse.Namespace) -> int:
    """Replay a recipe or a run."""
    from tune.replay import replay as run_again
    from tune.tracking import Tracker

    done = run_again(args.target, given_options(args), Tracker.open())
    print(f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}; run {done.run_id}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate a checkpoint."""
    from rbnn.listeners import evaluation_lines
    from rbnn.machine import resolve
    from rbnn.session import evaluate_file

    args.evaluate = args.file
    recipe = resolve(recipe_from(args))
    metrics, info = evaluate_file(recipe, args.file)
    if args.json:
        print(json.dumps({"file": args.file, "data": info.name, **metrics}))
    else:
        print(*evaluation_lines(args.file, metrics, info.sizes["validation"]), sep="\n")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Run a sweep file."""
    from tune.sweepfile import load_sweep

    changes = {"trials": args.trials, "concurrent": args.concurrent, "time_budget_min": args.time_budget, "seed": args.seed}
    file = load_sweep(args.file, **{name: value for name, value in changes.items() if value is not None})
    from tune.conduct import conduct

    return conduct(file, name=args.name, results_dir=args.results_dir)


def ui(args: argparse.Namespace) -> int:
    """Serve MLflow's pages until Ctrl-C."""
    from tune.store import tracking_uri
    from tune.ui import serve_ui

    serve_ui(tracking_uri(), args.port, args.host, sweep=args.sweep)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
