"""`rbnn train`, `replay`, `export`, `diff`, `evaluate`, `recipes`: one recipe at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from rbnn.options import add_recipe_options, given_options, recipe_from
from rbnn.packed.command import add_engine_option, evaluate_package, is_package, refuse_engine
from tune.cli.adding import Add

if TYPE_CHECKING:
    from tune.run.record import RunRecord
    from tune.tracking.mirror import Tracker


def add(command: Add) -> None:
    """The parsers of these commands."""
    recipes = command(
        "recipes", list_recipes, "list the named recipes with their documented accuracies"
    )
    recipes.add_argument("--json", action="store_true", help="print them as JSON")

    add_recipe_options(command("train", train, "train a recipe and record it in MLflow"))

    again = command(
        "replay",
        replay,
        "run a named recipe, a recipe file or a recorded run again, and give a verdict",
    )
    again.add_argument(
        "target",
        metavar="RECIPE|RUN_ID|FILE",
        help="recipe name or file, id of a recorded run, or file of rbnn export",
    )
    again.add_argument(
        "--verify",
        action="store_true",
        help="a run or exported file: compare every epoch with the recorded one",
    )
    again.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="--verify: of the final val/top1 (default 0.5)",
    )
    again.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="a recipe: N seeds, their mean against the documented figure",
    )
    add_recipe_options(again, positional=False)

    export = command(
        "export",
        export_run,
        "write a recorded run into one file, to be replayed and verified anywhere",
    )
    export.add_argument("run_id", metavar="RUN_ID", help="id of a recorded run, or its beginning")
    export.add_argument("file", metavar="FILE", help="file to write (JSON)")

    compare = command(
        "diff",
        diff_runs,
        "say how two recorded runs differ: params, environment, data, first differing epoch",
    )
    compare.add_argument(
        "runs", nargs=2, metavar="RUN", help="run id, its beginning, or file of rbnn export"
    )
    compare.add_argument("--json", action="store_true", help="print it as JSON")

    evaluation = command(
        "evaluate",
        evaluate,
        "evaluate a checkpoint, one of ours or one of the RBNN authors', or a package",
    )
    evaluation.add_argument(
        "file", metavar="FILE", help="checkpoint file, folder of a run, or package"
    )
    add_engine_option(evaluation)
    evaluation.add_argument("--json", action="store_true", help="print the metrics as JSON")
    add_recipe_options(evaluation, positional=False)
    evaluation.set_defaults(start_from=None)


def list_recipes(args: argparse.Namespace) -> int:
    """Print the named recipes."""
    import sys

    from rbnn.documented import documented_accuracies
    from rbnn.recipe import load_recipe, recipe_files
    from tune.tracking.measured import measured_accuracies

    documented = documented_accuracies()
    try:
        measured = measured_accuracies(recipe_files())
    except RequestError as error:
        print(f"rbnn: no figures measured here: {error}", file=sys.stderr)
        measured = {}
    rows = []
    for name in recipe_files():
        recipe, figures = load_recipe(name), documented.get(name, {})
        shown = {key: getattr(recipe, key) for key in ("dataset", "model", "epochs", "batch_size")}
        rows.append({"name": name, **shown, **figures, "measured": measured.get(name)})
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    heads = ("documented top-1 / top-5", "measured here")
    print(
        f"{'recipe':36} {'data set':9} {'model':15} {'epochs':>6} {'batch':>6}  {heads[0]:24}  "
        f"{heads[1]}"
    )
    for row in rows:
        print(
            f"{row['name']:36} {row['dataset']:9} {row['model']:15} {row['epochs']:6} "
            f"{row['batch_size']:6}  "
            f"{_figures(row) or 'none given':24}  {_measured(row['measured'])}".rstrip()
        )
    print("run one: rbnn replay RECIPE      shorten it: rbnn replay RECIPE --epochs 400")
    return 0


def _figures(values: dict[str, Any]) -> str:
    """Top-1 and top-5 as far as they are known."""
    return " / ".join(f"{values[key]:g}" for key in ("top1", "top5") if values.get(key) is not None)


def _measured(best: dict[str, Any] | None) -> str:
    if not best:
        return "-"
    runs = f", best of {best['num_runs']}" if best["num_runs"] > 1 else ""
    return f"{_figures(best)} (run {best['run_id'][:8]}{runs})"


def train(args: argparse.Namespace) -> int:
    """Train and record."""
    recipe = recipe_from(args)
    if recipe.evaluate:
        args.file, args.json = recipe.evaluate, False
        return evaluate(args)
    from rbnn.hardware import resolve
    from tune.run.train import train_recorded
    from tune.tracking.mirror import Tracker

    recipe = resolve(recipe)
    name = args.start_from_option or args.start_from or f"{recipe.dataset}_{recipe.model}"
    done = train_recorded(recipe, Tracker.open(), name=name)
    print(
        f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}; run {done.run_id}"
    )
    print(f"again, to the bit: rbnn replay {done.run_id[:8]}      see it: rbnn ui")
    return 0


def replay(args: argparse.Namespace) -> int:
    """Replay a recipe or a run; exit status 1 where a verdict is negative."""
    _check_replay_options(args)
    from tune.run import replay as again
    from tune.run.verdict import TOLERANCE
    from tune.tracking.mirror import Tracker

    tracker, given = Tracker.open(), given_options(args)
    if args.verify:
        tolerance = TOLERANCE if args.tolerance is None else args.tolerance
        done, verdict = again.replay_and_verify(args.target, given, tracker, tolerance=tolerance)
        print(
            f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}; run "
            f"{done.run_id}"
        )
        print(f"verdict: {verdict.text}")
        return 0 if verdict.positive else 1
    if args.seeds:
        runs, judged = again.replay_seeds(args.target, given, tracker, args.seeds)
        print(*again.seeds_table(runs, judged), f"verdict: {judged.text}", sep="\n")
        return 0 if judged.positive else 1
    done, single = again.replay(args.target, given, tracker)
    print(
        f"best val/top1 {done.best_top1:.2f} %; checkpoints in {done.directory}; run {done.run_id}"
    )
    if single:
        print(f"verdict: {single.text}")
    return 0 if single is None or single.positive else 1


def _check_replay_options(args: argparse.Namespace) -> None:
    if args.seeds is not None and args.seeds < 1:
        raise RequestError(f"--seeds is {args.seeds}; it must be at least 1")
    if args.seeds and args.verify:
        raise RequestError(
            "--seeds goes with a recipe and --verify with a recorded run; give one of them"
        )
    if args.tolerance is not None and not (args.verify and args.tolerance >= 0):
        raise RequestError(
            f"--tolerance is {args.tolerance:g}; it must be at least 0, and goes with --verify"
        )


def _record(target: str, tracker: Tracker | None) -> RunRecord:
    from tune.run.record import is_record, read_record, record_of

    if tracker is None or is_record(Path(target)):
        return read_record(Path(target))
    return record_of(tracker, target)


def export_run(args: argparse.Namespace) -> int:
    """Write a run's record into a file."""
    from tune.tracking.mirror import Tracker

    path = Path(args.file)
    record = _record(args.run_id, Tracker.open())
    record.write(path)
    print(
        f"{path}: run {record.run_id}, {len(record.epochs)} epochs, "
        f"{path.stat().st_size / 1024:.0f} kB"
    )
    print(f"anywhere: rbnn replay {path} --verify")
    return 0


def diff_runs(args: argparse.Namespace) -> int:
    """Print how two runs differ."""
    from tune.run.diff import compare, lines_of
    from tune.run.record import is_record
    from tune.tracking.mirror import Tracker

    tracker = None if all(is_record(Path(target)) for target in args.runs) else Tracker.open()
    found = compare(*(_record(target, tracker) for target in args.runs))
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(*lines_of(found), sep="\n")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate a checkpoint or a package."""
    if is_package(args.file):
        return evaluate_package(args.file, args)
    refuse_engine(args)
    from rbnn.console import evaluation_lines
    from rbnn.hardware import resolve
    from rbnn.session import evaluate_file

    args.evaluate = args.file
    recipe = resolve(recipe_from(args))
    metrics, info = evaluate_file(recipe, args.file)
    if args.json:
        print(json.dumps({"file": args.file, "data": info.name, **metrics}))
    else:
        print(*evaluation_lines(args.file, metrics, info.sizes["validation"]), sep="\n")
    return 0
