"""`rbnn package`: a trained network as a small file that runs in 1-bit arithmetic."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rbnn.packed.command import add_package_options, package
from tune.cli.adding import Add

if TYPE_CHECKING:
    from tune.sweep.winner import Winner
    from tune.tracking.mirror import Tracker

MODELS = "models:/"


def add(command: Add) -> None:
    """The parser of this command."""
    parser = command(
        "package",
        run,
        "make a package: a network's weights as bits, with its ONNX and OpenVINO forms, compared "
        "and timed; exit status 1 where a form predicts otherwise",
    )
    parser.add_argument(
        "target",
        metavar="RUN|CHECKPOINT|models:/...",
        help="id of a recorded run, checkpoint file or folder of a run, or model of the store",
    )
    add_package_options(parser)


def run(args: argparse.Namespace) -> int:
    """Package a checkpoint, wherever it lies."""
    target: str = args.target
    is_file = Path(target).exists() or not (target.isalnum() or target.startswith(MODELS))
    if is_file:  # which names no run to log the package to
        return 0 if package(target, args).agrees else 1
    from tune.tracking.mirror import Tracker

    return package_recorded(target, Tracker.open(), args)


def package_winner(winner: Winner, sweep: str, tracker: Tracker, args: argparse.Namespace) -> int:
    """Package the last checkpoint of a sweep's best trial."""
    run_id = winner.row.run_id or tracker.trial_run(sweep, winner.row.number)
    return package_recorded(run_id, tracker, args)


def package_recorded(target: str, tracker: Tracker, args: argparse.Namespace) -> int:
    """Package a run's last checkpoint, or a model's, and log the package to the run."""
    from tune.tracking.package import checkpoint_of_model, checkpoint_of_run, log_package

    with tempfile.TemporaryDirectory() as place:
        if target.startswith(MODELS):
            file, run_id = checkpoint_of_model(tracker.client, target, Path(place))
        else:
            file, run_id = checkpoint_of_run(tracker, target, Path(place))
        found = package(str(file), args, source=target)
    if run_id:
        model_id = log_package(tracker.client, run_id, Path(args.out))
        print(f"serve it: mlflow models serve -m models:/{model_id} --env-manager local")
    return 0 if found.agrees else 1
