"""`rbnn recipes`, `train`, `replay`, `export`, `diff`, `evaluate`, `package`: a recipe, a run."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from rbnn.options import add_recipe_options, given_options, recipe_from
from rbnn.packed import command as packed
from tune.cli import JSON, TENSORBOARD, Add, arg, flag, run

if TYPE_CHECKING:
    from tune.run.record import RunRecord
    from tune.tracking.reader import RunReader

MODELS = "models:/"


def add(command: Add) -> None:
    """The parsers of these commands."""
    text = "list the named recipes with their documented accuracies"
    command("recipes", list_recipes, text, [JSON])
    text = "train a recipe and record it in MLflow"
    add_recipe_options(command("train", train, text, [TENSORBOARD]))
    text = "run a named recipe, a recipe file or a recorded run again, and give a verdict"
    target = "recipe name or file, id of a recorded run, or file of rbnn export"
    arguments = [
        arg("target", show="RECIPE|RUN_ID|FILE", help=target),
        flag("--verify", "a run or exported file: compare every epoch with the recorded one"),
        arg("--tolerance", type=float, show="POINTS", help="of --verify's final val/top1 (0.5)"),
        arg("--seeds", type=int, show="N", help="a recipe: the mean of N seeds is judged"),
        TENSORBOARD,
    ]
    add_recipe_options(command("replay", replay, text, arguments), positional=False)
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
    packed.add_engine_option(evaluation)
    text = "id of a recorded run, checkpoint file or folder of a run, or model of the store"
    source = arg("target", show="RUN|CHECKPOINT|models:/...", help=text)
    text = (
        "make a package: a network's weights as bits, with its ONNX and OpenVINO forms, compared "
        "and timed; exit status 1 where a form predicts otherwise"
    )
    packed.add_package_options(command("package", package_target, text, [source]))


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
    line = "{:36} {:9} {:15} {:>6} {:>6}  {:24}  {}"
    heads = ("recipe", "data set", "model", "epochs", "batch", "documented top-1 / top-5")
    print(line.format(*heads, "measured here"))
    for row in rows:
        about = [row[key] for key in ("name", "dataset", "model", "epochs", "batch_size")]
        print(line.format(*about, _figures(row) or "none given", _measured(row["measured"])))
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
    name = args.start_from_option or args.start_from or ""
    done = run.train(recipe, name=name, tensorboard=args.tensorboard)
    print(run.result_line(done))
    print(f"again, to the bit: rbnn replay {done.run_id[:8]}      see it: rbnn ui")
    return 0


def replay(args: argparse.Namespace) -> int:
    """Replay a recipe or a run; exit status 1 where a verdict is negative."""
    asked = {name: getattr(args, name) for name in ("verify", "seeds", "tolerance", "tensorboard")}
    done = run.replay(args.target, **asked, **given_options(args))
    print(*done.lines, sep="\n")
    return 0 if done.verdict is None or done.verdict.positive else 1


def _record(target: str) -> RunRecord:
    from tune.run.record import is_record, read_record

    return read_record(Path(target)) if is_record(Path(target)) else run.find_run(target)


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
    if packed.is_package(args.file):
        return packed.evaluate_package(args.file, args)
    packed.refuse_engine(args)
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


def package_target(args: argparse.Namespace) -> int:
    """Package a checkpoint, wherever it lies."""
    target: str = args.target
    is_file = Path(target).exists() or not (target.isalnum() or target.startswith(MODELS))
    if is_file:  # which names no run to log the package to
        return 0 if packed.package(target, args).agrees else 1
    from tune.tracking.reader import RunReader

    return package_recorded(target, RunReader.open(), args)


def package_recorded(target: str, reader: RunReader, args: argparse.Namespace) -> int:
    """Package a run's last checkpoint, or a model's, and log the package to the run."""
    from tune.tracking.package import checkpoint_of_model, checkpoint_of_run, log_package

    with tempfile.TemporaryDirectory() as place:
        if target.startswith(MODELS):
            file, run_id = checkpoint_of_model(reader.client, target, Path(place))
        else:
            file, run_id = checkpoint_of_run(reader, target, Path(place))
        found = packed.package(str(file), args, source=target)
    if run_id:
        model_id = log_package(reader.client, run_id, Path(args.out))
        print(f"serve it: mlflow models serve -m models:/{model_id} --env-manager local")
    return 0 if found.agrees else 1
