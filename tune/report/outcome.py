"""What a sweep says of itself in the terminal: before it begins, and at its end."""

from __future__ import annotations

from tune.report.console import print_table, verdict
from tune.sweep.plan import SweepPlan
from tune.sweep.stop import BUDGET, StopSignal
from tune.sweep.table import TrialTable

NUM_TABLE_ROWS = 10


def opening(planned: SweepPlan) -> str:
    """What is about to run, in four lines."""
    space = "  ".join(f"{name} {text}" for name, _, text in planned.config.space.describe())
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
        f"sweep {planned.name}: up to {planned.config.trials} trials of {planned.recipe.model} on "
        f"{planned.recipe.dataset}, "
        f"{planned.recipe.epochs} epochs, {planned.concurrent} at once, {each} each\n"
        f"searching {space}\n"
        f"{planned.data.name}: {sizes}; trials are compared on {selection}\n"
        f"results in {planned.directory}"
    )


def print_result(
    board: TrialTable, stop: StopSignal, confirmation: list[str], handle: str, pages: str = ""
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
