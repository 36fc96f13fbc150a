"""A whole sweep as the command runs it: plan, record, show, and say what it found and what to do next."""

from __future__ import annotations

from threading import Event

from tune.board import Board, Row
from tune.display import SweepDisplay, print_table, verdict
from tune.recording import RecordTrials
from tune.sweep import Plan, plan, run
from tune.sweepfile import SweepFile
from tune.tracking import Status, Tracker

NUM_TABLE_ROWS = 10


def conduct(file: SweepFile, *, name: str = "", results_dir: str = "") -> int:
    """Run a sweep file to its end, or to Ctrl-C; returns the exit status. Raises RequestError before anything is started."""
    tracker = Tracker.open()
    planned = plan(file, name=name, results_dir=results_dir)
    stop = Event()
    board = Board(planned.name, file.trials, planned.recipe.epochs)
    print(opening(planned), flush=True)
    parent = start_parent(tracker, planned)
    status: Status = "FAILED"
    try:
        with SweepDisplay(board) as display:
            recorder = RecordTrials(planned, board, tracker, parent, stop, display.changed)
            try:
                run(planned, [recorder], stop)
            finally:
                recorder.end_unfinished()
        status = "KILLED" if stop.is_set() else "FINISHED" if board.best else "FAILED"
    except KeyboardInterrupt:
        stop.set()
        status = "KILLED"
    finally:
        close_parent(tracker, parent, board, status)
    if stop.is_set():
        print(f"stopped; {len(board.ended)} trials are recorded, those that ran as killed")
    print_next(board, parent, print_table(board, NUM_TABLE_ROWS))
    return 0 if status == "FINISHED" else 130 if stop.is_set() else 1


def opening(planned: Plan) -> str:
    """What is about to run, in four lines."""
    space = "  ".join(f"{name} {text}" for name, _, text in planned.file.space.describe())
    workers = planned.recipe.train_workers
    each = f"{workers} workers of {planned.recipe.threads} threads" if workers > 1 else f"{planned.recipe.threads} thread(s)"
    sizes = ", ".join(f"{size} {split}" for split, size in planned.data.sizes.items())
    fraction = planned.recipe.val_fraction
    selection = (
        f"{fraction:.0%} of the training images, held out"
        if fraction
        else f"the validation split {planned.data.name} comes with"
    )
    return (
        f"sweep {planned.name}: up to {planned.file.trials} trials of {planned.recipe.model} on {planned.recipe.dataset}, "
        f"{planned.recipe.epochs} epochs, {planned.concurrent} at once, {each} each\n"
        f"searching {space}\n"
        f"{planned.data.name}: {sizes}; trials are compared on {selection}\n"
        f"results in {planned.directory}"
    )


def start_parent(tracker: Tracker, planned: Plan) -> str:
    """The sweep's own run in MLflow, with its file and its data."""
    tags = {"rbnn.sweep": planned.name, "rbnn.recipe": planned.file.name}
    run_id = tracker.start_run("sweep", planned.name, recipe=planned.recipe, tags=tags, description=planned.file.description)
    tracker.log_dict(run_id, planned.file.to_dict(), "sweep.yaml")
    tracker.log_data(run_id, planned.data.name, planned.data.fingerprint, planned.data.sizes)
    return run_id


def close_parent(tracker: Tracker, parent: str, board: Board, status: Status) -> None:
    """The result on the sweep's own run: winner, baseline, and how many trials ended how."""
    best, base = board.best, board.baseline
    summary: dict[str, float] = {f"sweep/{state}": float(count) for state, count in state_counts(board.ended).items()}
    if best and best.top1 is not None:
        summary["val/top1"] = best.top1
        tracker.set_tags(parent, {"rbnn.best_run": best.run_id, "rbnn.best_trial": str(best.number)})
    if base and base.top1 is not None:
        summary["sweep/default_top1"] = base.top1
    if summary:
        tracker.log_epoch(parent, summary, 0)
    cause = "" if status != "FAILED" else next((row.cause for row in board.ended if row.cause), "no trial ran to its end")
    tracker.finish(parent, status, cause=cause)


def state_counts(rows: list[Row]) -> dict[str, int]:
    """How many trials ended in each state."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return counts


def print_next(board: Board, parent: str, table: str) -> None:
    """What the sweep found, and the exact commands that go on from here."""
    print(f"\n{verdict(board)}")
    if board.best:
        print(f"run the winner again, to the bit:  rbnn replay {board.best.run_id[:8]}")
    print(f"see every trial:                   rbnn ui {board.name}")
