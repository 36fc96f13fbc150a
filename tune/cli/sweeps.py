"""`rbnn sweep`, `resume`, `stop`, `status`: searches, begun, gone on with and ended."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError, one_line
from tune.cli import JSON, RAY, RESULTS, SWEEP, Add, arg, flag

if TYPE_CHECKING:
    from tune.sweep.config import SweepConfig
    from tune.sweep.folder import SweepFolder

STOP_WAIT_S = 120.0
LOOK_INTERVAL_S = 0.2
CLUSTER = arg(
    "--address", show="URL", default="", help="of the cluster that a submitted sweep runs on"
)
EXIT_STATUS = {"finished": 0, "stopped": 130}


def add(command: Add) -> None:
    """The parsers of these commands."""
    command(
        "sweep",
        sweep,
        "search hyperparameters: a sweep file's space, the documented default as trial 0",
        [
            arg("file", show="FILE", help="sweep file, e.g. experiments/quickstart.yaml"),
            arg("--name", default="", help="of the sweep (default: the file's, and the time)"),
            arg("--trials", type=int, show="N", help="number of trials, instead of the file's"),
            arg("--concurrent", type=int, show="N", help="trials at once (default: as fits here)"),
            arg("--time-budget", type=float, show="MINUTES", help="stop the search after so long"),
            arg("--seed", type=int, show="N", help="seed of the sampler"),
            arg("--storage_path", show="DIR|URL", help="where all nodes keep checkpoints"),
            arg("--storage", show="URL", help="Optuna storage (default: a file of the sweep)"),
            arg("--learn-from", nargs="+", default=[], show="SWEEP", help="earlier sweeps"),
            flag("--no-confirm", "do not train the best settings again with fresh seeds"),
            flag("--dry-run", "say what it would try and take, and do nothing"),
            flag("--submit", "hand it to the cluster at --address and return at once"),
            RAY,
            RESULTS,
        ],
    )
    seeds = arg(
        "--confirm-seeds", type=int, show="N", help="confirm the best with N fresh seeds; 0: do not"
    )
    text = "go on with a sweep that was stopped or died, where it was"
    command("resume", resume, text, [SWEEP, seeds, RAY, RESULTS])
    text = "end a running sweep cleanly, from another terminal"
    command("stop", stop, text, [SWEEP, CLUSTER, RESULTS])
    text = "how a sweep stands, also while it runs elsewhere; without SWEEP, all sweeps"
    which = arg("sweep", show="SWEEP", nargs="?", default="", help="name or folder (default: all)")
    command("status", status, text, [which, JSON, CLUSTER, RESULTS])


def sweep(args: argparse.Namespace) -> int:
    """Run a sweep file."""
    from tune.sweep.config import load_sweep

    changes = {
        "trials": args.trials,
        "concurrent": args.concurrent,
        "time_budget_min": args.time_budget,
        "seed": args.seed,
        "storage_path": args.storage_path,
        "storage": args.storage,
        "confirm_seeds": 0 if args.no_confirm else None,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    file = load_sweep(args.file, **given)
    earlier = [find(name, args.results_dir) for name in args.learn_from]
    if args.dry_run:
        return forecast(file, args, earlier)
    if args.submit and earlier:
        raise RequestError("--learn-from reads sweeps of this machine; leave out --submit")
    if args.submit:
        from tune.cli.cluster import submit

        return submit(file, args.name, args.address, results_dir=args.results_dir)
    where = {"results_dir": args.results_dir, "address": args.address}
    return begin(file, name=args.name, learn_from=earlier, **where)


def begin(file: SweepConfig, **given: Any) -> int:
    """Run a sweep file, watched and recorded; given: as `run_sweep` takes it."""
    from tune.cli.listeners import watched
    from tune.report.console import opening
    from tune.sweep.session import run_sweep
    from tune.sweep.stop import Interruption

    with Interruption() as signals:
        with watched("") as (listener, mirror):
            folder, stop = run_sweep(
                file,
                store=mirror.reader.uri,
                listener=listener,
                signals=signals,
                began=lambda plan, folder: print(opening(plan), flush=True),
                **given,
            )
        return conclude(folder, stop, mirror)


def conclude(folder: SweepFolder, stop: Any, mirror: Any) -> int:
    """Write and log the report of a sweep that has ended, and say what it found."""
    from tune.report.console import print_result
    from tune.report.publish import publish
    from tune.sweep.summary import look_at
    from tune.tracking.thread import say
    from tune.tracking.view import sweep_pages

    report = ""
    try:
        report = str(publish(folder).files[0])
        mirror.sync(folder.directory)
    # The sweep has ended and its folder is complete, whatever cannot be made of it now.
    except Exception as error:
        later = f"rbnn {'sync' if report else 'report'} {folder.handle}"
        what = "logged to MLflow" if report else "written"
        say(f"the report could not be {what}: {one_line(error)}; later: {later}")
    standing, pages = look_at(folder), sweep_pages(mirror.reader.uri, folder)
    print_result(standing.table, stop, standing.confirmation, folder.handle, pages)
    if report:
        print(f"report:                            {report}")
    return EXIT_STATUS.get(folder.record.state, 1)


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
    for name, trials in lessons(file.space, planned.recipe, earlier).items():
        print(f"learns from {len(trials)} trials of {name}")
    reader = existing_reader()
    recorded = recorded_epoch_s(planned.recipe, reader) if reader else None
    print(*dry_run(planned, recorded), sep="\n")
    return 0


def find(name: str, results_dir: str) -> SweepFolder:
    """The sweep of that name, or in that folder."""
    from tune.sweep.folder import find_sweep

    return find_sweep(name, results_dir)


def found(args: argparse.Namespace) -> SweepFolder:
    """The sweep that a command names."""
    return find(args.sweep, args.results_dir)


def go_on(folder: SweepFolder, **given: Any) -> int:
    """Resume a sweep, watched and recorded where its runs are; given: as for `resume_sweep`."""
    from tune.cli.listeners import watched
    from tune.run.folder import run_folders
    from tune.sweep.session import resume_sweep
    from tune.sweep.stop import Interruption

    store = folder.store_uri()
    with Interruption() as signals:
        with watched(store) as (listener, mirror):
            stop = resume_sweep(folder, store=store, listener=listener, signals=signals, **given)
            for run in run_folders(folder.directory):  # what an earlier session could not record
                listener.sweep_changed(run)
        return conclude(folder, stop, mirror)


def resume(args: argparse.Namespace) -> int:
    """Go on with a sweep."""
    folder = found(args)
    if args.confirm_seeds is not None:
        if args.confirm_seeds < 0:
            raise RequestError(f"--confirm-seeds is {args.confirm_seeds}; it must be at least 0")
        check_idle(folder)
        folder.update(confirm_seeds=args.confirm_seeds)
    return go_on(folder, address=args.address)


def check_idle(folder: SweepFolder) -> None:
    """RequestError where a process conducts the sweep."""
    if folder.conducted():
        raise folder.busy()


def on_cluster(args: argparse.Namespace) -> bool:
    """Whether a question is one for a cluster: its address is given, or RAY_ADDRESS takes jobs and
    the sweep is not here.
    """
    from tune.cluster.ray import jobs_address
    from tune.sweep.folder import sweep_folders

    if args.address or not jobs_address():
        return bool(args.address)
    if not args.sweep:
        return not sweep_folders(args.results_dir)
    try:
        found(args)
    except RequestError:
        return True
    return False


def stop(args: argparse.Namespace) -> int:
    """End a sweep."""
    if on_cluster(args):
        from tune.cli.cluster import print_stopped

        return print_stopped(args.sweep, args.address)
    ended, sentence = stop_sweep(found(args))
    print(sentence)
    return 0 if ended else 1


def stop_sweep(folder: SweepFolder, *, wait_s: float = STOP_WAIT_S) -> tuple[bool, str]:
    """(whether it has ended, what happened in a sentence); of a dead one, what it left is put in
    order.
    """
    name = folder.record.name
    if not folder.conducted():
        if folder.state != "died":
            return True, f"sweep {name} has ended already: {folder.record.state}"
        from tune.cli.doctor import mend_sweep

        number = mend_sweep(folder)
        return True, f"sweep {name}: its process had died; {number} things were put in order"
    folder.stop_file.touch()
    deadline = time.monotonic() + wait_s
    while folder.conducted():
        if time.monotonic() > deadline:
            return False, (
                f"sweep {name} was asked to stop and still runs after {wait_s:g} s; see rbnn "
                f"status {folder.handle}"
            )
        time.sleep(LOOK_INTERVAL_S)
    return True, f"sweep {name} stopped; go on with it: rbnn resume {folder.handle}"


def status(args: argparse.Namespace) -> int:
    """Print how a sweep, or every sweep, stands."""
    import json

    if on_cluster(args):
        from tune.cli.cluster import print_status

        return print_status(args.sweep, args.address, args.json)
    from tune.report.console import print_list, print_summary
    from tune.sweep.summary import look_at, look_at_all

    if args.sweep:
        standing = look_at(found(args))
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
