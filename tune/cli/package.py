"""`rbnn package`: a trained network as a small file that runs in 1-bit arithmetic."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rbnn.packed.command import add_package_options, package
from tune.cli import Add, arg

if TYPE_CHECKING:
    from tune.tracking.reader import RunReader

MODELS = "models:/"


def add(command: Add) -> None:
    """The parser of this command."""
    target = arg(
        "target",
        show="RUN|CHECKPOINT|models:/...",
        help="id of a recorded run, checkpoint file or folder of a run, or model of the store",
    )
    text = (
        "make a package: a network's weights as bits, with its ONNX and OpenVINO forms, compared "
        "and timed; exit status 1 where a form predicts otherwise"
    )
    add_package_options(command("package", run, text, [target]))


def run(args: argparse.Namespace) -> int:
    """Package a checkpoint, wherever it lies."""
    target: str = args.target
    is_file = Path(target).exists() or not (target.isalnum() or target.startswith(MODELS))
    if is_file:  # which names no run to log the package to
        return 0 if package(target, args).agrees else 1
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
        found = package(str(file), args, source=target)
    if run_id:
        model_id = log_package(reader.client, run_id, Path(args.out))
        print(f"serve it: mlflow models serve -m models:/{model_id} --env-manager local")
    return 0 if found.agrees else 1
