"""`package` and the evaluation of packages, as both command lines run them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import CheckpointError, RequestError
from rbnn.options import add_recipe_options, find_checkpoint, given_options, recipe_from
from rbnn.recipe import Recipe

if TYPE_CHECKING:
    from rbnn.data.loading import Batch
    from rbnn.packed.report import Report

ENGINES = ("torch", "onnx", "openvino")
ALL_IMAGES = -1
TOLD_S = 10.0
PACKAGE_DEFAULTS = {
    "half": False, "images": ALL_IMAGES, "no_latency": False,
    "start_from": None, "start_from_option": None,
}  # fmt: skip
NETWORK = ("model", "dataset", "a32")


def add_package_options(parser: argparse.ArgumentParser) -> None:
    """What `package` takes beside the checkpoint; recipe options say where its data are, and what
    an authors' file is of.
    """
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the package")
    parser.add_argument(
        "--half", action="store_true", help="keep the first and the last layer in float16"
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="compare predictions on the first N validation images (default: all)",
    )
    parser.add_argument("--no_latency", action="store_true", help="do not measure latency")
    add_recipe_options(parser, positional=False)
    parser.set_defaults(**PACKAGE_DEFAULTS)


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """`evaluate --engine`."""
    parser.add_argument(
        "--engine", choices=ENGINES, help="a package: the form to evaluate (default torch)"
    )


def refuse_engine(args: argparse.Namespace) -> None:
    """RequestError where --engine is given for a checkpoint."""
    if getattr(args, "engine", None):
        raise RequestError(
            f"--engine is {args.engine}, but '{args.file}' is no package; make one: rbnn package"
        )


def package(path: str, args: argparse.Namespace, source: str = "") -> Report:
    """Package a checkpoint file into args.out and print its report; RequestError, one line, for
    what cannot be packaged. source: what the file was fetched from.
    """
    from rbnn import checkpoint
    from rbnn.data import open_loaders
    from rbnn.hardware import device_of, prepare_process
    from rbnn.models import build
    from rbnn.packed.package import make
    from rbnn.packed.report import lines_of, report
    from rbnn.session import resolve

    if args.images < ALL_IMAGES:
        raise RequestError(f"--images is {args.images}; it must be at least 0")
    args.evaluate = path = find_checkpoint(path)
    state = checkpoint.load(path)
    recipe = resolve(recipe_from(args).replace(gpus="none"))
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics)
    checkpoint.load_weights(model, state, path)
    prepare_process(recipe, device_of(recipe))
    loaders = open_loaders(recipe, device_of(recipe)) if args.images else None
    folder = Path(args.out)
    packed = make(model.eval(), recipe, folder, half=args.half)
    print(f"{folder}: {recipe.model} on {recipe.dataset}, of {source or path}; comparing it")
    sys.stdout.flush()
    num_images = sys.maxsize if args.images == ALL_IMAGES else args.images
    if loaders:
        num_images = min(num_images, loaders.info.sizes["validation"])
    found = report(
        folder, model, packed, told(loaders.val, num_images) if loaders else (),
        num_images=num_images, with_latency=not args.no_latency,
    )  # fmt: skip
    print(*lines_of(found), sep="\n")
    print(f"evaluate it: rbnn evaluate {folder} --engine openvino")
    if not found.agrees:
        print("rbnn: a form's predictions differ beyond float rounding", file=sys.stderr)
    return found


def told(batches: Iterable[Batch], num_images: int) -> Iterator[Batch]:
    """The batches; every TOLD_S seconds it says how many images are compared, and the finish."""
    from rbnn.console import finish_time

    began = last = time.monotonic()
    done = 0
    for batch in batches:
        yield batch
        done, now = done + len(batch[0]), time.monotonic()
        if now - last >= TOLD_S and done < num_images:
            finish = finish_time((now - began) / done * (num_images - done))
            print(f"  {done} of {num_images} images compared  finish {finish}", file=sys.stderr)
            last = now


def is_package(path: str) -> bool:
    """Whether a path is a package's folder."""
    from rbnn.packed.weights import CONFIG

    return (Path(path) / CONFIG).is_file()


def evaluate_package(path: str, args: argparse.Namespace) -> int:
    """Print the validation metrics of a package's form."""
    from rbnn.console import evaluation_lines
    from rbnn.data import open_loaders
    from rbnn.hardware import device_of, prepare_process
    from rbnn.packed.engines import evaluate, open_engine
    from rbnn.packed.weights import read_config
    from rbnn.session import resolve

    engine = args.engine or "torch"
    recorded = read_config(Path(path)).recipe
    recipe = resolve(Recipe(**recorded | given_options(args)).replace(gpus="none", evaluate=""))
    _check_network(path, recorded, recipe, args)
    prepare_process(recipe, device_of(recipe))
    run = open_engine(Path(path), engine, recipe.threads)
    loaders = open_loaders(recipe, device_of(recipe))
    metrics = evaluate(run, loaders.val)
    info = loaders.info
    if args.json:
        print(json.dumps({"file": path, "engine": engine, "data": info.name, **metrics}))
    else:
        print(*evaluation_lines(f"{path} ({engine})", metrics, info.sizes["validation"]), sep="\n")
    return 0


def _check_network(
    path: str, recorded: dict[str, Any], recipe: Recipe, args: argparse.Namespace
) -> None:
    if args.start_from_option:
        raise RequestError(f"'{path}' is a package and knows its recipe; leave --recipe out")
    for name in NETWORK:
        if recorded[name] != getattr(recipe, name):
            raise CheckpointError(
                f"package '{path}' is of {name} {recorded[name]}; leave --{name} out"
            )
