"""`rbnn sweep`, `resume`, `stop`, `status`, `extend`, `promote`, `audit`: searches."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from tune.cli import JSON, RAY, RESULTS, SWEEP, TENSORBOARD, Add, arg, flag
from tune.cli.sweep import Sweep, open_sweep, run_sweep

if TYPE_CHECKING:
    from tune.sweep.config import SweepConfig
    from tune.sweep.folder import SweepFolder

_text = "of the cluster that a submitted sweep runs on"
CLUSTER = arg("--address", show="URL", default="", help=_text)
# Options of `rbnn sweep` that take the place of a sweep file's keys.
KEYS = (
    "trials", "concurrent", "time_budget_min", "seed", "storage_path", "storage", "confirm_seeds"
)  # fmt: skip
EXIT_STATUS = {"finished": 0, "stopped": 130}


def add(command: Add) -> None:
    """The parsers of these commands."""
    minutes: dict[str, Any] = {"dest": "time_budget_min", "type": float, "show": "MINUTES"}
    never: dict[str, Any] = {"dest": "confirm_seeds", "action": "store_const", "const": 0}
    text = "do not train the best settings again with fresh seeds"
    arguments = [
        arg("file", show="FILE", help="sweep file, e.g. experiments/quickstart.yaml"),
        arg("--name", default="", help="of the sweep (default: the file's, and the time)"),
        arg("--trials", type=int, show="N", help="number of trials, instead of the file's"),
        arg("--concurrent", type=int, show="N", help="trials at once (default: as fits here)"),
        arg("--time_budget", **minutes, help="stop the search after so long"),
        arg("--seed", type=int, show="N", help="seed of the sampler"),
        arg("--storage_path", show="DIR|URL", help="where all nodes keep checkpoints"),
        arg("--storage", show="URL", help="Optuna storage (default: a file of the sweep)"),
        arg("--learn_from", nargs="+", default=[], show="SWEEP", help="earlier sweeps"),
        arg("--no_confirm", **never, help=text),
        flag("--dry_run", "say what it would try and take, and do nothing"),
        flag("--submit", "hand it to the cluster at --address and return at once"),
    ]
    text = "search hyperparameters: a sweep file's space, the documented default as trial 0"
    command("sweep", sweep, text, [*arguments, TENSORBOARD, RAY, RESULTS])
    text = "confirm the best with N fresh seeds; 0: do not"
    seeds = arg("--confirm_seeds", type=int, show="N", help=text)
    text = "go on with a sweep that was stopped or died, where it was"
    command("resume", resume, text, [SWEEP, seeds, TENSORBOARD, RAY, RESULTS])
    text = "end a running sweep cleanly, from another terminal"
    command("stop", stop, text, [SWEEP, CLUSTER, RESULTS])
    text = "how a sweep stands, also while it runs elsewhere; without SWEEP, all sweeps"
    which = arg("sweep", show="SWEEP", nargs="?", default="", help="name or folder (default: all)")
    command("status", status, text, [which, JSON, CLUSTER, RESULTS])
    trials = arg("--trials", type=int, show="N", help="so many more trials")
    hours = arg("--hours", type=float, show="H", help="so many more hours, trials without end")
    epochs = arg("--epochs", type=int, show="N", help="train the best anew, so many epochs each")
    top = arg("--top", type=int, show="N", default=3, help="of the best, with --epochs (default 3)")
    text = "add trials, hours, or longer trainings of the best to a sweep, on the same history"
    command("extend", extend, text, [SWEEP, trials, hours, epochs, top, TENSORBOARD, RAY, RESULTS])
    numbers = arg("numbers", type=int, nargs="+", show="TRIAL", help="number of a stopped trial")
    text = "go on with trials that were stopped, from their checkpoints"
    command("promote", promote, text, [SWEEP, numbers, TENSORBOARD, RAY, RESULTS])
    text = "derive every proposal and every stop of a sweep again from its history"
    command("audit", audit, text, [SWEEP, JSON, RESULTS])


def sweep(args: argparse.Namespace) -> int:
    """Run a sweep file."""
    from tune.sweep.config import load_sweep

    given = {name: value for name in KEYS if (value := getattr(args, name)) is not None}
    file = load_sweep(args.file, **given)
    earlier = [open_sweep(name, args.results_dir).folder for name in args.learn_from]
    if args.dry_run:
        return forecast(file, args, earlier)
    if args.submit and earlier:
        raise RequestError("--learn_from reads sweeps of this machine; leave out --submit")
    if args.submit:
        from tune.cli.cluster import submit

        return submit(file, args.name, args.address, results_dir=args.results_dir)
    where = {"name": args.name, "results_dir": args.results_dir}
    return status_of(run_sweep(file, learn_from=earlier, **where, **ways(args)))


def ways(args: argparse.Namespace) -> dict[str, Any]:
    """Where trials run and what is written of them, as a command's options say."""
    return {"address": args.address, "tensorboard": args.tensorboard}


def status_of(sweep: Sweep) -> int:
    """The exit status of a command that ran a sweep."""
    return EXIT_STATUS.get(sweep.folder.record.state, 1)


def forecast(file: SweepConfig, args: argparse.Namespace, earlier: list[SweepFolder]) -> int:
    """Print what a sweep would try and take."""
    from tune.cluster.ray import capacity, joined
    from tune.report.console import dry_run
    from tune.sweep.lineage import lessons
    from tune.sweep.plan import plan
    from tune.tracking.measured import recorded_epoch_s
    from tune.tracking.reader import existing_reader

    with joined(args.address):
        room = capacity(args.address)
        planned = plan(file, name=args.name, results_dir=args.results_dir, capacity=room)
    known = lessons(file.space, planned.recipe, earlier)
    for name, trials in known.items():
        print(f"learns from {len(trials)} trials of {name}")
    reader = existing_reader()
    recorded = recorded_epoch_s(planned.recipe, reader) if reader else None
    print(*dry_run(planned, recorded, known), sep="\n")
    return 0


def resume(args: argparse.Namespace) -> int:
    """Go on with a sweep."""
    if args.confirm_seeds is None:
        return status_of(opened(args).resume(**ways(args)))
    return status_of(opened(args).confirm(args.confirm_seeds, **ways(args)))


def opened(args: argparse.Namespace) -> Sweep:
    """The sweep that a command names."""
    return open_sweep(args.sweep, args.results_dir)


def on_cluster(args: argparse.Namespace) -> bool:
    """Whether to ask a cluster: at a given address, or by RAY_ADDRESS for what is not here."""
    from tune.cluster.ray import jobs_address
    from tune.sweep.folder import sweep_folders

    if args.address or not jobs_address():
        return bool(args.address)
    if not args.sweep:
        return not sweep_folders(args.results_dir)
    try:
        opened(args)
    except RequestError:
        return True
    return False


def stop(args: argparse.Namespace) -> int:
    """End a sweep."""
    if on_cluster(args):
        from tune.cli.cluster import print_stopped

        return print_stopped(args.sweep, args.address)
    ended, sentence = opened(args).stop()
    print(sentence)
    return 0 if ended else 1


def status(args: argparse.Namespace) -> int:
    """Print how a sweep, or every sweep, stands."""
    if on_cluster(args):
        from tune.cli.cluster import print_status

        return print_status(args.sweep, args.address, args.json)
    from tune.report.console import print_list, print_summary
    from tune.sweep.summary import look_at_all

    if args.sweep:
        standing = opened(args).summary
        if args.json:
            print(json.dumps(standing.to_dict(), indent=1))
        else:
            print_summary(standing)
    elif args.json:
        print(json.dumps(look_at_all(args.results_dir), indent=1))
    elif not print_list(args.results_dir):
        where = args.results_dir or "./result"
        print(f"no sweep in {where}; start one: rbnn sweep experiments/quickstart.yaml")
    return 0


def extend(args: argparse.Namespace) -> int:
    """Add to a sweep's budget, or train its best longer, and go on with it."""
    from tune.sweep.lineage import extend_epochs

    sweep = opened(args)
    if args.epochs is None:
        return status_of(sweep.extend(args.trials, args.hours, **ways(args)))
    if args.trials is not None or args.hours is not None:
        raise RequestError("--epochs goes alone; extend by --trials or --hours before or after it")
    sweep.check_idle()
    extend_epochs(sweep.folder, args.epochs, args.top)
    return status_of(sweep.resume(**ways(args)))


def promote(args: argparse.Namespace) -> int:
    """Go on with stopped trials of a sweep."""
    from tune.sweep.lineage import promote as line_up

    sweep = opened(args)
    sweep.check_idle()
    line_up(sweep.folder, args.numbers)
    return status_of(sweep.resume(**ways(args)))


def audit(args: argparse.Namespace) -> int:
    """Derive a sweep's decisions again; status 1 where one cannot be."""
    from tune.sweep.audit import audit_of

    found = audit_of(opened(args).folder)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return 1 if found.wrong else 0
    for text in found.wrong:
        print(text)
    kinds = f"{found.proposals} proposals, {found.judgements} judgements, {found.given} given"
    number = found.proposals + found.judgements + found.given
    print(f"{number - len(found.wrong)} of {number} decisions derived: {kinds}")
    return 1 if found.wrong else 0
