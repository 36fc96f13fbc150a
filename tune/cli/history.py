"""`rbnn extend`, `promote`, `audit`: a sweep taken further, and its decisions derived again."""

from __future__ import annotations

import argparse

from rbnn.errors import RequestError
from tune.cli import JSON, RAY, RESULTS, SWEEP, TENSORBOARD, Add, arg, sweeps


def add(command: Add) -> None:
    """The parsers of these commands."""
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


def extend(args: argparse.Namespace) -> int:
    """Add to a sweep's budget, or train its best longer, and go on with it."""
    from tune.sweep.lineage import extend_epochs

    sweep = sweeps.opened(args)
    if args.epochs is None:
        return sweeps.status_of(sweep.extend(args.trials, args.hours, **sweeps.ways(args)))
    if args.trials is not None or args.hours is not None:
        raise RequestError("--epochs goes alone; extend by --trials or --hours before or after it")
    sweep.check_idle()
    extend_epochs(sweep.folder, args.epochs, args.top)
    return sweeps.status_of(sweep.resume(**sweeps.ways(args)))


def promote(args: argparse.Namespace) -> int:
    """Go on with stopped trials of a sweep."""
    from tune.sweep.lineage import promote as line_up

    sweep = sweeps.opened(args)
    sweep.check_idle()
    line_up(sweep.folder, args.numbers)
    return sweeps.status_of(sweep.resume(**sweeps.ways(args)))


def audit(args: argparse.Namespace) -> int:
    """Derive a sweep's decisions again; status 1 where one cannot be."""
    import dataclasses
    import json

    from tune.sweep.audit import audit_of

    found = audit_of(sweeps.opened(args).folder)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return 1 if found.wrong else 0
    for text in found.wrong:
        print(text)
    kinds = f"{found.proposals} proposals, {found.judgements} judgements, {found.given} given"
    number = found.proposals + found.judgements + found.given
    print(f"{number - len(found.wrong)} of {number} decisions derived: {kinds}")
    return 1 if found.wrong else 0
