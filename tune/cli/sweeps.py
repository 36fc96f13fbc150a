"""`rbnn sweep`: searches."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tune.cli.adding import Add

if TYPE_CHECKING:
    from tune.sweep.config import SweepFile


def add(command: Add) -> None:
    """The parsers of these commands."""
    search = command(
        "sweep",
        sweep,
        "search hyperparameters: a sweep file's space, the documented default as trial 0",
    )
    search.add_argument("file", metavar="FILE", help="sweep file, e.g. experiments/quickstart.yaml")
    search.add_argument(
        "--name", default="", help="name of the sweep (default: the file's, and the time)"
    )
    search.add_argument(
        "--trials", type=int, metavar="N", help="number of trials, instead of the file's"
    )
    search.add_argument(
        "--concurrent",
        type=int,
        metavar="N",
        help="trials at once (default: as the machine allows)",
    )
    search.add_argument(
        "--time-budget",
        type=float,
        metavar="MINUTES",
        help="start nothing after so many minutes, and stop",
    )
    search.add_argument("--seed", type=int, metavar="N", help="seed of the sampler")
    search.add_argument(
        "--storage_path",
        metavar="DIR|URL",
        help="where all nodes keep checkpoints: shared folder, s3://...",
    )
    search.add_argument(
        "--address",
        default="",
        metavar="ADDRESS",
        help="Ray cluster to run on (default: RAY_ADDRESS, or here)",
    )
    search.add_argument(
        "--storage",
        metavar="URL",
        help="Optuna storage, e.g. postgresql://... (default: a file of the sweep)",
    )
    search.add_argument(
        "--no-confirm",
        action="store_true",
        help="do not train the best settings again with fresh seeds",
    )
    search.add_argument(
        "--dry-run", action="store_true", help="say what it would try and take, and do nothing"
    )
    search.add_argument(
        "--submit",
        action="store_true",
        help="hand it to the cluster at --address and return at once",
    )
    search.add_argument(
        "--results_dir", default="", metavar="DIR", help="folder that the sweep's folder goes under"
    )


def sweep(args: argparse.Namespace) -> int:
    """Run a sweep file."""
    from tune.sweep.config import load_sweep

    changes = {
        "trials": args.trials,
        "concurrent": args.concurrent,
        "time_budget_min": args.time_budget,
        "seed": args.seed,
    }
    changes |= {"storage_path": args.storage_path, "storage": args.storage}
    changes |= {"confirm_seeds": 0} if args.no_confirm else {}
    file = load_sweep(
        args.file, **{name: value for name, value in changes.items() if value is not None}
    )
    if args.dry_run:
        return forecast(file, args)
    if args.submit:
        from tune.cli.cluster import submit

        return submit(file, args.name, args.address, results_dir=args.results_dir)
    from tune.sweep.session import conduct

    return conduct(file, name=args.name, results_dir=args.results_dir, address=args.address)


def forecast(file: SweepFile, args: argparse.Namespace) -> int:
    """Print what a sweep would try and take."""
    from tune.cluster.ray import capacity, joined
    from tune.report.dry_run import dry_run, existing_tracker
    from tune.sweep.plan import plan

    with joined(args.address):
        planned = plan(
            file, name=args.name, results_dir=args.results_dir, capacity=capacity(args.address)
        )
    print(*dry_run(planned, existing_tracker()), sep="\n")
    return 0
