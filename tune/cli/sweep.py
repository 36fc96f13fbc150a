"""`rbnn status`, `resume`, `extend`, `stop`, `best`, `doctor`: what can be done with a sweep that
has begun.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rbnn.errors import RequestError
from rbnn.packed.command import PACKAGE_DEFAULTS
from tune.cli.adding import Add

if TYPE_CHECKING:
    from tune.sweep.folder import SweepFolder
    from tune.tracking.mirror import Tracker

SWEEP_HELP = "name of the sweep, or its folder"


def add(command: Add) -> None:
    """The parsers of these commands."""
    look = command(
        "status",
        status,
        "how a sweep stands, also while it runs elsewhere; without SWEEP, all sweeps",
    )
    look.add_argument("sweep", nargs="?", default="", metavar="SWEEP", help=SWEEP_HELP)
    look.add_argument("--json", action="store_true", help="print it as JSON")

    again = command("resume", resume, "go on with a sweep that was stopped or died, where it was")
    again.add_argument("sweep", metavar="SWEEP", help=SWEEP_HELP)
    again.add_argument(
        "--confirm-seeds",
        type=int,
        metavar="N",
        help="confirm the best settings with N fresh seeds; 0: do not",
    )

    more = command("extend", extend, "add trials or hours to a sweep, on the same history")
    more.add_argument("sweep", metavar="SWEEP", help=SWEEP_HELP)
    more.add_argument("--trials", type=int, metavar="N", help="so many more trials")
    more.add_argument(
        "--hours",
        type=float,
        metavar="H",
        help="so many more hours; without --trials, trials without end",
    )

    end = command("stop", stop, "end a running sweep cleanly, from another terminal")
    end.add_argument("sweep", metavar="SWEEP", help=SWEEP_HELP)

    winner = command("best", best, "the best setting of a sweep, and as a recipe file")
    winner.add_argument("sweep", metavar="SWEEP", help=SWEEP_HELP)
    winner.add_argument(
        "--export", metavar="FILE", help="write it as a recipe file, for rbnn replay"
    )
    winner.add_argument("--json", action="store_true", help="print it as JSON")
    winner.add_argument(
        "--register",
        action="store_true",
        help="register the confirmed winner in MLflow, as champion if it is best",
    )
    winner.add_argument(
        "--package", dest="out", metavar="FOLDER", help="make a package of it, as rbnn package does"
    )
    winner.set_defaults(**PACKAGE_DEFAULTS)

    check = command(
        "doctor",
        doctor,
        "find what an accident left in Ray, Optuna and MLflow; exit status 1 while anything is "
        "wrong",
    )
    check.add_argument("--fix", action="store_true", help="put it right")
    for parser in (again, more):
        parser.add_argument(
            "--address",
            default="",
            metavar="ADDRESS",
            help="Ray cluster to run on (default: RAY_ADDRESS, or here)",
        )
    for parser in (look, end):
        parser.add_argument(
            "--address",
            default="",
            metavar="URL",
            help="of the cluster that a submitted sweep runs on",
        )
    for parser in (look, again, more, end, winner, check):
        parser.add_argument(
            "--results_dir",
            default="",
            metavar="DIR",
            help="folder that holds the sweeps (default ./result)",
        )


def _found(args: argparse.Namespace) -> SweepFolder:
    from tune.sweep.folder import find_sweep

    return find_sweep(args.sweep, args.results_dir)


def _on_cluster(args: argparse.Namespace) -> bool:
    """Whether a question is one for a cluster: its address is given, or RAY_ADDRESS takes jobs and
    the sweep is not here.
    """
    from tune.cluster.address import jobs_address
    from tune.sweep.folder import find_sweep, sweep_folders

    if args.address or not jobs_address():
        return bool(args.address)
    if not args.sweep:
        return not sweep_folders(args.results_dir)
    try:
        find_sweep(args.sweep, args.results_dir)
    except RequestError:
        return True
    return False


def _tracker(uri: str) -> Tracker:
    from tune.tracking.mirror import Tracker

    return Tracker.open(uri=uri)


def status(args: argparse.Namespace) -> int:
    """Print how a sweep, or every sweep, stands."""
    if _on_cluster(args):
        from tune.serve.jobs import print_status

        return print_status(args.sweep, args.address, args.json)
    from tune.sweep.summary import look_at, look_at_all, print_list, print_standing

    if args.sweep:
        standing = look_at(_found(args))
        if args.json:
            print(json.dumps(standing.to_dict(), indent=1))
        else:
            print_standing(standing)
    elif args.json:
        print(json.dumps(look_at_all(args.results_dir), indent=1))
    elif not print_list(args.results_dir):
        print(
            f"no sweep in {args.results_dir or './result'}; start one: rbnn sweep "
            "experiments/quickstart.yaml"
        )
    return 0


def resume(args: argparse.Namespace) -> int:
    """Go on with a sweep."""
    from tune.sweep.session import resume as go_on

    folder = _found(args)
    if args.confirm_seeds is not None:
        if args.confirm_seeds < 0:
            raise RequestError(f"--confirm-seeds is {args.confirm_seeds}; it must be at least 0")
        _check_idle(folder)
        folder.update(confirm_seeds=args.confirm_seeds)
    return go_on(folder, address=args.address)


def extend(args: argparse.Namespace) -> int:
    """Add to a sweep's budget and go on with it."""
    from tune.sweep.extending import extend_budget
    from tune.sweep.session import resume as go_on

    folder = _found(args)
    _check_idle(folder)
    extend_budget(folder, args.trials, args.hours)
    return go_on(folder, address=args.address)


def _check_idle(folder: SweepFolder) -> None:
    if folder.conducted():
        raise folder.busy()


def stop(args: argparse.Namespace) -> int:
    """End a sweep."""
    if _on_cluster(args):
        from tune.serve.jobs import print_stopped

        return print_stopped(args.sweep, args.address)
    from tune.cli.ending import stop_sweep

    ended, sentence = stop_sweep(_found(args), _tracker)
    print(sentence)
    return 0 if ended else 1


def best(args: argparse.Namespace) -> int:
    """Print or export the winner."""
    from tune.sweep.winner import export, lines_of, winner_of

    if args.json and args.out:
        raise RequestError("--json goes without --package, whose report is a file: report.json")
    folder = _found(args)
    winner, name = winner_of(folder), folder.record.name
    if args.export:
        file = Path(args.export)
        if not file.parent.is_dir():
            raise RequestError(
                f"--export {file}: the folder {file.parent} does not exist; create it, or name "
                "another file"
            )
        export(winner, name, file)
    registered = None
    if args.register:
        from tune.tracking.registry import candidate_of, register_champion

        tracker = _tracker(folder.record.store)
        registered = register_champion(tracker, candidate_of(winner, name, tracker))
    if args.json:
        print(
            json.dumps(
                winner.to_dict() | ({"registered": vars(registered)} if registered else {}),
                indent=1,
            )
        )
    else:
        print(*lines_of(winner, name), sep="\n")
        if args.export:
            print(f"recipe written to {file}; run it: rbnn replay {file}")
        elif not registered:
            print(f"as a recipe file: rbnn best {folder.handle} --export FILE")
        if registered:
            print(registered.text)
    packaged = 0
    if args.out:
        from tune.cli.package import package_winner

        packaged = package_winner(winner, name, _tracker(folder.record.store), args)
    return packaged if registered is None or registered.champion else 1


def _upload(file: Path, *, fix: bool) -> None:
    """Say what the MLflow store did not take while it was away, and give it to it on request."""
    from tune.tracking.pending import upload_pending

    if not fix:
        print(f"{file} holds what the MLflow store did not take; rbnn doctor --fix uploads it")
        return
    done = upload_pending(file)
    print(f"{file}: {done.num_taken} records uploaded")
    for line in done.refused:
        print(f"  refused: {line}")


def doctor(args: argparse.Namespace) -> int:
    """Say what is wrong, and put it right on request."""
    from tune.cli.doctor import ailments, dead_runs
    from tune.report.dry_run import existing_tracker
    from tune.sweep.folder import DEFAULT_RESULTS, sweep_folders
    from tune.tracking.pending import pending_files

    waiting = pending_files(args.results_dir or DEFAULT_RESULTS)
    for file in waiting:
        _upload(file, fix=args.fix)
    sweeps, unread = ailments(args.results_dir, _tracker)
    for name, reason in unread.items():
        print(f"sweep {name} cannot be examined: {reason}")
    store = existing_tracker()
    known = [folder.record.name for folder in sweep_folders(args.results_dir)]
    found = [
        (f"sweep {name}: ", finding) for name, findings in sweeps.items() for finding in findings
    ]
    found += [("", finding) for finding in (dead_runs(store, known) if store else [])]
    for subject, finding in found:
        print(subject + finding.text)
        if args.fix:
            finding.fix()
    where = (
        f"{len(sweeps)} sweep{'s' * (len(sweeps) != 1)} in {args.results_dir or './result'} "
        "looked at"
    )
    if not found and (waiting or unread):
        return 0 if args.fix and not unread else 1
    if not found:
        print(f"nothing is wrong; {where}")
        return 0
    print(
        f"{len(found)} "
        f"found{', all put right' if args.fix else '; rbnn doctor --fix puts them right'}; {where}"
    )
    return 0 if args.fix and not unread else 1
