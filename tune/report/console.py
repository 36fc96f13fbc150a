"""A sweep in the terminal: what it will do, a live table or plain lines while it runs, what it
found, and how it stands.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rbnn.console import finish_time
from rbnn.errors import RequestError
from tune.report.table import PLAIN_WIDTH, as_rich, plain_grid, print_table, verdict
from tune.run.folder import RunFolder
from tune.run.listener import Listener
from tune.sweep.table import TrialRow, TrialTable, percent, shown

if TYPE_CHECKING:  # these load torch and optuna: seconds that `rbnn status` needs not
    from tune.sweep.forecast import Forecast
    from tune.sweep.lineage import Lessons
    from tune.sweep.plan import SweepPlan
    from tune.sweep.stop import StopSignal
    from tune.sweep.summary import SweepSummary

PLAIN_INTERVAL_S = 10.0
NUM_LIVE_ROWS = 12
NUM_TABLE_ROWS = 10


class SweepDisplay(Listener):
    """Shows a sweep's trials as they run: a live table in a terminal, else plain lines."""

    board = NO_TRIALS = TrialTable("", None, 0)
    live: Any = None

    def trials_began(self, table: TrialTable) -> None:
        self.board, self.live = table, None
        self._last_line, self._said = 0.0, set[int]()
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(get_renderable=self._renderable, refresh_per_second=2, transient=True)
            self.live.start()

    def trials_ended(self) -> None:
        if self.live:
            self.live.stop()
        self.board = self.NO_TRIALS

    def run_began(self, run: RunFolder) -> None:
        if run.directory.name.isdigit() and (row := self.board.rows.get(int(run.directory.name))):
            self.changed(row)

    run_ended = run_began

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        self.run_began(run)

    def said(self, text: str) -> None:
        say(text)

    def changed(self, row: TrialRow) -> None:
        """A trial began, reported or ended."""
        if self.live:
            return
        epoch = f"epoch {row.epochs}/{row.values.get('epochs', self.board.num_epochs)}"
        top1 = f"val/top1 {percent(row.top1)}"
        if row.state != "running":
            because = f": {row.cause}" if row.cause else ""
            is_short = row.shown_state == "short"
            ended = "ends its short schedule" if is_short else row.state
            text = f"{ended} after {row.epochs} epochs, {top1} %{because}"
        elif row.number not in self._said:
            self._said.add(row.number)
            text = f"{f'goes on from {epoch}' if row.epochs else 'starts'}: {_values(row.values)}"
        elif time.monotonic() - self._last_line < PLAIN_INTERVAL_S:
            return
        else:
            text = f"{epoch}, {top1} %; {self.summary()}"
        say(f"{self.board.noun} {row.number} {text}")
        self._last_line = time.monotonic()

    def summary(self) -> str:
        """How far the sweep is, in one line."""
        board, left = self.board, self.board.seconds_left()
        tops = [row.best_top1 for row in board.rows.values() if row.best_top1 is not None]
        best = f"best top-1 {max(tops):.2f} %" if tops else "no epoch finished yet"
        finish = "finish not known yet"
        if left is not None:
            more = ", confirmation included" if board.epochs_after else ""
            finish = f"finish about {finish_time(left)}{more}"
        of = f" of {board.num_trials}" if board.num_trials is not None else ""
        return f"{len(board.ended)}{of} {board.noun}s done, {best}, {finish}"

    def _renderable(self) -> Any:
        from rich.console import Group

        rows = self.board.rows.values()
        last = sorted(rows, key=lambda row: (row.state == "running", row.number))[-NUM_LIVE_ROWS:]
        return Group(as_rich(self.board, last), self.summary())


def say(line: str) -> None:
    """One plain line, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _values(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {shown(value)}" for name, value in values.items())


def opening(plan: SweepPlan) -> str:
    """What is about to run, in four or five lines."""
    from tune.sweep.confirm import num_confirming

    recipe, data = plan.recipe, plan.data
    space = "  ".join(f"{name} {text}" for name, _, text in plan.config.space.describe())
    each = f"{recipe.threads} thread(s)"
    if recipe.train_workers > 1:
        each = f"{recipe.train_workers} workers of {recipe.threads} threads"
    sizes = ", ".join(f"{size} {split}" for split, size in data.sizes.items())
    selection = f"the validation split {data.name} comes with"
    if recipe.val_fraction:
        selection = f"{recipe.val_fraction:.0%} of the training images, held out"
    budget, file = "", plan.config
    if file.time_budget_min:
        budget = f"time budget: the search ends after {file.time_budget_min:g} minutes"
        if runs := num_confirming(file.confirm_top, file.confirm_seeds, file.trials):
            budget += f"; confirming the best, up to {runs} runs, comes after it"
        budget += "\n"
    return (
        f"sweep {plan.name}: up to {plan.config.trials} trials of {recipe.model} on "
        f"{recipe.dataset}, {recipe.epochs} epochs, {plan.concurrent} at once, {each} each\n"
        f"searching {space}\n"
        f"{data.name}: {sizes}; trials are compared on {selection}\n"
        f"{budget}results in {plan.directory}"
    )


def print_result(
    board: TrialTable, stop: StopSignal, confirmation: list[str], handle: str, pages: str = ""
) -> None:
    """What the sweep found, whether it is confirmed, and the exact commands that go on from here.

    handle: what these commands call the sweep. pages: the address of its trials in MLflow's pages,
    where a server shows them.
    """
    from tune.sweep.stop import BUDGET

    if stop.by_user:
        print(f"\n{stop.reason}; {len(board.ended)} trials are recorded, those that ran as killed")
    elif stop.reason:
        print(f"\nended early: {stop.reason}")
    print_table(board, NUM_TABLE_ROWS)
    print(f"\n{verdict(board)}")
    if confirmation:
        print("", *confirmation, "", sep="\n")
    elif board.best:
        print(f"unconfirmed, as each ran once; to confirm: rbnn resume {handle} --confirm_seeds 3")
    if board.best:
        print(f"run the winner again, to the bit:  rbnn replay {board.best.run_id[:8]}")
    print(f"see every trial:                   {pages or f'rbnn ui {board.name}'}")
    if stop.reason:
        command = f"extend {handle} --hours 1" if stop.reason == BUDGET else f"resume {handle}"
        print(f"go on with it:                     rbnn {command}")


def dry_run(plan: SweepPlan, recorded: tuple[float, str] | None, known: Lessons) -> list[str]:
    """What `rbnn sweep FILE --dry_run` prints; recorded, known: as `forecast` takes them."""
    from tune.sweep.forecast import first_points, forecast, hours

    found, file, recipe = forecast(plan, recorded, known), plan.config, plan.recipe
    lines = [opening(plan), "", "space"]
    lines += [f"  {name}: {kind}, {text}" for name, kind, text in file.space.describe()]
    lines += ["first trials"]
    lines += [
        f"  {number}: {_values(values)}" for number, values in first_points(plan, known).items()
    ]
    each = f"{recipe.train_workers * recipe.threads} core(s), {plan.gpus_of_trial:g} GPU(s)"
    lines += [f"at once: {plan.concurrent} trials of {each}", *_rungs(plan, found)]
    most, total = found.most + found.confirming, found.expected + found.confirming
    minutes = file.time_budget_min
    budget = f"; the search stops after {minutes:g} minutes" if minutes else ""
    likely, longest = (hours(epochs, found, plan.concurrent) for epochs in (total, most))
    return [
        *lines,
        f"epochs: {most} at most, about {total:.0f} expected ({found.expected:.0f} to search, "
        f"{found.confirming} to confirm)",
        f"an epoch: {found.epoch_s:.2f} s, {found.source}",
        f"time: about {likely}, at most {longest}, if trials at once do not slow one another"
        f"{budget}",
        f"disk: {found.checkpoint / 1e6:.1f} MB a checkpoint, up to {found.disk / 1e9:.2f} GB in "
        "all (last and best of each run, in its folder and in MLflow)",
    ]


def _rungs(plan: SweepPlan, found: Forecast) -> list[str]:
    if plan.config.scheduler.name == "none":
        return ["rungs: none, every trial runs to its end"]
    if found.rungs == [[]]:
        return ["rungs: none below the last epoch"]
    share = f"one in {plan.config.scheduler.reduction_factor:g} goes on"
    if plan.config.scheduler.name == "short":
        lengths = ", ".join(str(length) for length in found.rungs[0])
        if plan.config.sampler == "gp" and not found.num_short:
            why = "those learned from stand" if found.num_learned else "too few epochs or trials"
            return [f"whole trainings alone: {why} for short schedules"]
        if plan.config.sampler == "gp":
            begin = f"complete schedules of {found.rungs[0][0]} epochs for the first"
            return [f"{begin} {found.num_short} setting(s), then of {plan.recipe.epochs}"]
        return [f"complete schedules of {lengths} epochs; {share} to the next"]
    lines = []
    for number, epochs in enumerate(found.rungs):
        of = f" of bracket {number}" if len(found.rungs) > 1 else ""
        text = ", ".join(f"epoch {epoch}" for epoch in epochs) or "none"
        lines.append(f"rungs{of}: {text}; {share}")
    return lines


def print_summary(summary: SweepSummary) -> None:
    """How one sweep stands."""
    record, counts = summary.record, summary.counts()
    of = f" of {record.trials}" if record.trials is not None else ""
    others = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    done = f"{_done(counts)}{of} trials done ({others or 'none begun'})"
    print(f"sweep {record.name}: {_state(summary)}; {done}")
    used, busy = summary.used_s / 3600, summary.busy_s / 3600
    of_kind = f"{busy * record.cpus:.2f} CPU hours, {busy * record.gpus:.2f} GPU hours"
    print(f"used {used:.2f} hours, {of_kind}; {_finish(summary)}")
    if summary.table.rows:
        print_table(summary.table, NUM_TABLE_ROWS)
    if summary.num_to_confirm:
        done = f"{summary.num_confirmed} of {summary.num_to_confirm} confirmation runs done"
        print(f"\n{done}", *summary.confirmation, sep="\n")
    if summary.state in ("died", "stopped", "failed"):
        print(f"go on with it: rbnn resume {summary.folder.handle}")


def print_list(results_dir: str) -> bool:
    """All sweeps under a results folder, one line each; whether there is any."""
    from rich.console import Console

    from tune.sweep.folder import sweep_folders
    from tune.sweep.summary import look_at

    names = ("sweep", "state", "trials", "best val/top1", "hours", "finish")
    grid = plain_grid(names, ("sweep", "state", "finish"))
    folders, problems = sweep_folders(results_dir), []
    for folder in folders:
        try:
            one = look_at(folder)
        except RequestError as error:
            grid.add_row(folder.record.name, folder.state)
            problems.append(f"sweep {folder.record.name}: {error}")
            continue
        best, num_trials = one.table.best, one.record.trials
        done = str(_done(one.counts())) + (f"/{num_trials}" if num_trials is not None else "")
        top1, used = percent(best.top1 if best else None), f"{one.used_s / 3600:.2f}"
        grid.add_row(one.record.name, one.state, done, top1, used, _finish(one))
    if folders:
        Console(width=PLAIN_WIDTH).print(grid)
    for problem in problems:
        print(problem)
    return bool(folders)


def _done(counts: dict[str, int]) -> int:
    return sum(counts[state] for state in ("complete", "short", "pruned", "failed"))


def _state(summary: SweepSummary) -> str:
    process, cause = summary.record.process, summary.record.cause
    if summary.state == "running":
        return f"running (process {process['pid']} on {process['host']})"
    if summary.state == "died":
        return "its process died before the end"
    return summary.state + (f" ({cause})" if cause else "")


def _finish(summary: SweepSummary) -> str:
    if summary.finish:
        return f"finish about {datetime.fromtimestamp(summary.finish):%Y-%m-%d %H:%M:%S}"
    if summary.state == "running":
        return "finish not known yet"
    ended = summary.record.ended
    return f"ended {datetime.fromtimestamp(ended):%Y-%m-%d %H:%M:%S}" if ended else "end not noted"
