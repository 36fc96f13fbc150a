"""What a sweep says of itself: before it begins, on its own run in MLflow, and at its end."""

from __future__ import annotations

from typing import Any

from tune.report.console import print_table, verdict
from tune.sweep.folder import Record, State
from tune.sweep.plan import Plan
from tune.sweep.stop import BUDGET, Stop
from tune.sweep.table import Board, Row
from tune.tracking.mirror import Status, Tracker
from tune.uris import shown

NUM_TABLE_ROWS = 10
STATUS: dict[State, Status] = {"finished": "FINISHED", "stopped": "KILLED"}


def opening(planned: Plan) -> str:
    """What is about to run, in four lines."""
    space = "  ".join(f"{name} {text}" for name, _, text in planned.file.space.describe())
    workers = planned.recipe.train_workers
    each = (
        f"{workers} workers of {planned.recipe.threads} threads"
        if workers > 1
        else f"{planned.recipe.threads} thread(s)"
    )
    sizes = ", ".join(f"{size} {split}" for split, size in planned.data.sizes.items())
    fraction = planned.recipe.val_fraction
    selection = (
        f"{fraction:.0%} of the training images, held out"
        if fraction
        else f"the validation split {planned.data.name} comes with"
    )
    return (
        f"sweep {planned.name}: up to {planned.file.trials} trials of {planned.recipe.model} on "
        f"{planned.recipe.dataset}, "
        f"{planned.recipe.epochs} epochs, {planned.concurrent} at once, {each} each\n"
        f"searching {space}\n"
        f"{planned.data.name}: {sizes}; trials are compared on {selection}\n"
        f"results in {planned.directory}"
    )


def start_parent(tracker: Tracker, planned: Plan) -> str:
    """The sweep's own run in MLflow, with its file and its data."""
    tags = {"rbnn.sweep": planned.name, "rbnn.recipe": planned.file.name}
    run_id = tracker.start_run(
        "sweep",
        planned.name,
        recipe=planned.recipe,
        tags=tags,
        description=planned.file.description,
    )
    file = planned.file.to_dict()
    addresses = {key: shown(file[key]) for key in ("storage", "storage_path")}
    tracker.log_dict(run_id, {**file, **addresses}, "sweep.yaml")
    tracker.log_params(run_id, settings_of(planned))
    tracker.log_data(run_id, planned.data.name, planned.data.fingerprint, planned.data.sizes)
    return run_id


def settings_of(planned: Plan) -> dict[str, Any]:
    """How the sweep searches, as params beside those of its recipe: space, sampler, scheduler,
    budget, seeds.
    """
    file = planned.file
    names = ("sampler", "seed", "trials", "time_budget_min", "confirm_top", "confirm_seeds")
    given = {name: getattr(file, name) for name in names}
    scheduler = " ".join(
        f"{key}={value:g}" if key != "name" else value
        for key, value in file.scheduler.to_dict().items()
    )
    space = {f"space/{name}": f"{kind} {text}" for name, kind, text in file.space.describe()}
    kept = {name: value for name, value in given.items() if value is not None}
    found = {**kept, "concurrent": planned.concurrent, "scheduler": scheduler}
    return {f"sweep/{name}": value for name, value in found.items()} | space


def find_parent(tracker: Tracker, record: Record) -> str:
    """The run that a sweep began before it could note its id, "" for none."""
    began_ms = int(record.began * 1000)
    runs = [run for run in tracker.sweeps() if run.data.tags.get("rbnn.sweep") == record.name]
    return next((run.info.run_id for run in runs if run.info.start_time >= began_ms), "")


def close_parent(
    tracker: Tracker, parent: str, board: Board, state: State, session: int, cause: str
) -> None:
    """The result on the sweep's own run: winner, baseline, and how many trials ended how; a later
    session is a later step.
    """
    best, base = board.best, board.baseline
    summary: dict[str, float] = {
        f"sweep/{ended}": float(count) for ended, count in state_counts(board.ended).items()
    }
    if best and best.top1 is not None:
        summary["val/top1"] = best.top1
        tracker.set_tags(
            parent, {"rbnn.best_run": best.run_id, "rbnn.best_trial": str(best.number)}
        )
    if base and base.top1 is not None:
        summary["sweep/default_top1"] = base.top1
    if summary:
        tracker.log_points(parent, summary, session - 1)
    if state == "failed" and not cause:
        cause = next((row.cause for row in board.ended if row.cause), "no trial ran to its end")
    tracker.finish(parent, STATUS.get(state, "FAILED"), cause=cause)


def state_counts(rows: list[Row]) -> dict[str, int]:
    """How many trials ended in each state."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return counts


def print_result(
    board: Board, stop: Stop, confirmation: list[str], handle: str, pages: str = ""
) -> None:
    """What the sweep found, whether it is confirmed, and the exact commands that go on from here.

    handle: what these commands call the sweep. pages: the address of its trials in MLflow's pages,
    where a server shows them.
    """
    if stop.by_user:
        print(f"\n{stop.reason}; {len(board.ended)} trials are recorded, those that ran as killed")
    elif stop.reason:
        print(f"\nended early: {stop.reason}")
    print_table(board, NUM_TABLE_ROWS)
    print(f"\n{verdict(board)}")
    if confirmation:
        print("", *confirmation, "", sep="\n")
    elif board.best:
        print(f"unconfirmed, as each ran once; to confirm: rbnn resume {handle} --confirm-seeds 3")
    if board.best:
        print(f"run the winner again, to the bit:  rbnn replay {board.best.run_id[:8]}")
    print(f"see every trial:                   {pages or f'rbnn ui {board.name}'}")
    if stop.reason == BUDGET:
        print(f"go on with it:                     rbnn extend {handle} --hours 1")
    elif stop.reason:
        print(f"go on with it:                     rbnn resume {handle}")
