"""`rbnn train`, `replay`, `export`, `diff`, `evaluate`, `recipes`: one recipe at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from rbnn.options import add_recipe_options, given_options, recipe_from
from rbnn.packed.command import add_engine_option, evaluate_package, is_package, refuse_engine
from tune.cli import JSON, Add, arg, flag

if TYPE_CHECKING:
    from tune.run.record import RunRecord
    from tune.run.train import TrainResult


def add(command: Add) -> None:
    """The parsers of these commands."""
    text = "list the named recipes with their documented accuracies"
    command("recipes", list_recipes, text, [JSON])
    add_recipe_options(command("train", train, "train a recipe and record it in MLflow"))
    text = "run a named recipe, a recipe file or a recorded run again, and give a verdict"
    target = "recipe name or file, id of a recorded run, or file of rbnn export"
    again = command(
        "replay",
        replay,
        text,
        [
            arg("target", show="RECIPE|RUN_ID|FILE", help=target),
            flag("--verify", "a run or exported file: compare every epoch with the recorded one"),
            arg(
                "--tolerance", type=float, show="POINTS", help="of --verify's final val/top1 (0.5)"
            ),
            arg("--seeds", type=int, show="N", help="a recipe: the mean of N seeds is judged"),
        ],
    )
    add_recipe_options(again, positional=False)
    run_id = arg("run_id", show="RUN_ID", help="id of a recorded run, or its beginning")
    text = "write a recorded run into one file, to be replayed and verified anywhere"
    command("export", export_run, text, [run_id, arg("file", show="FILE", help="to write (JSON)")])
    text = "say how two recorded runs differ: params, environment, data, first differing epoch"
    pair = arg("runs", nargs=2, show="RUN", help="run id, its beginning, or file of rbnn export")
    command("diff", diff_runs, text, [pair, JSON])
    text = "evaluate a checkpoint, ours or one of the RBNN authors', or a package"
    file = arg("file", show="FILE", help="checkpoint file, or folder of a run")
    evaluation = command("evaluate", evaluate, text, [file, JSON])
    add_recipe_options(evaluation, positional=False)
    evaluation.set_defaults(start_from=None)
    add_engine_option(evaluation)


def list_recipes(args: argparse.Namespace) -> int:
    """Print the named recipes."""
    import sys

    from rbnn.recipe import documented_accuracies, load_recipe, recipe_files
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
        return print_evaluation(recipe.evaluate, args, as_json=False)
    from rbnn.session import resolve
    from tune.cli.listeners import watched
    from tune.run.train import train_recorded

    recipe = resolve(recipe)
    name = args.start_from_option or args.start_from or f"{recipe.dataset}_{recipe.model}"
    with watched("") as (listener, _):
        done = train_recorded(recipe, listener, name=name)
    print_result(done)
    print(f"again, to the bit: rbnn replay {done.run_id[:8]}      see it: rbnn ui")
    return 0


def print_result(done: TrainResult) -> None:
    """Where a finished run is, and how good."""
    where = f"checkpoints in {done.directory}; run {done.run_id}"
    print(f"best val/top1 {done.best_top1:.2f} %; {where}")


def replay(args: argparse.Namespace) -> int:
    """Replay a recipe or a run; exit status 1 where a verdict is negative."""
    _check_replay_options(args)
    from rbnn.session import resolve
    from tune.run import replay as again

    given = given_options(args)
    # What cannot be run is refused before anything is written, MLflow's database too.
    if args.verify:
        resolve(again.find_record(args.target, find).to_recipe())
    else:
        resolve(again.find_recipe(args.target, given, find)[0])
    from tune.cli.listeners import watched

    verdict: Any
    with watched("") as (listener, _):
        if args.verify:
            tolerance = again.TOLERANCE if args.tolerance is None else args.tolerance
            done, verdict = again.replay_and_verify(
                args.target, given, find, listener, tolerance=tolerance
            )
        elif args.seeds:
            runs, verdict = again.replay_seeds(args.target, given, find, listener, args.seeds)
        else:
            done, verdict = again.replay(args.target, given, find, listener)
    if args.seeds:
        print(*again.seeds_table(runs, verdict), sep="\n")
    else:
        print_result(done)
    if verdict:
        print(f"verdict: {verdict.text}")
    return 0 if verdict is None or verdict.positive else 1


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


def find(target: str) -> RunRecord:
    """The recorded run of an id, or of its beginning, in the store."""
    from tune.tracking.address import tracking_uri
    from tune.tracking.reader import existing_reader
    from tune.uris import shown

    reader = existing_reader()
    if reader is None:
        raise RequestError(f"run '{target}' in {shown(tracking_uri())} is unknown: no such file")
    return reader.record_of(target)


def _record(target: str) -> RunRecord:
    from tune.run.record import is_record, read_record

    return read_record(Path(target)) if is_record(Path(target)) else find(target)


def export_run(args: argparse.Namespace) -> int:
    """Write a run's record into a file."""
    path, record = Path(args.file), _record(args.run_id)
    record.write(path)
    size = path.stat().st_size / 1024
    print(f"{path}: run {record.run_id}, {len(record.epochs)} epochs, {size:.0f} kB")
    print(f"anywhere: rbnn replay {path} --verify")
    return 0


def diff_runs(args: argparse.Namespace) -> int:
    """Print how two runs differ."""
    from tune.run.diff import compare, lines_of

    old, new = args.runs
    found = compare(_record(old), _record(new))
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
    args.evaluate = args.file
    return print_evaluation(args.file, args, as_json=args.json)


def print_evaluation(file: str, args: argparse.Namespace, *, as_json: bool) -> int:
    """Evaluate a checkpoint as the options say, and print its metrics."""
    from rbnn.console import evaluation_lines
    from rbnn.session import evaluate_file, resolve

    metrics, info = evaluate_file(resolve(recipe_from(args)), file)
    if as_json:
        print(json.dumps({"file": file, "data": info.name, **metrics}))
    else:
        print(*evaluation_lines(file, metrics, info.sizes["validation"]), sep="\n")
    return 0
