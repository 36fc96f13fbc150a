"""A whole sweep as the command runs it, begun anew or gone on with: plan, search, confirm, record,
show, say what it found.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import yaml

from rbnn.errors import RequestError, RunFailed
from rbnn.recipe import Recipe
from tune.cluster.ray import capacity, connected, joined, lost_of_own_ray, own_ray_session
from tune.report.console import SweepDisplay, say
from tune.report.outcome import close_parent, find_parent, opening, print_result, start_parent
from tune.report.publish import publish
from tune.sweep.callback import RecordConfirmation, RecordTrials
from tune.sweep.config import SweepFile
from tune.sweep.confirm import SUFFIX, Setting, confirmation_table, num_confirming, settings_of
from tune.sweep.folder import SWEEP_FILE, Record, State, SweepFolder, begin_file
from tune.sweep.plan import (
    Phase,
    Plan,
    Trainable,
    confirm_phase,
    plan,
    plan_again,
    run,
    search_phase,
)
from tune.sweep.repair import examine, runs_by_number
from tune.sweep.standing import board_of
from tune.sweep.stop import BUDGET, SIGNAL, Stop, set_by_signals
from tune.sweep.study import STORAGE_ERRORS, History, check_new_study, reason_of
from tune.sweep.table import Board
from tune.sweep.trial import run_trial
from tune.tracking.mirror import Tracker
from tune.tracking.view import view_link
from tune.uris import is_server, shown, with_absolute_path, without_login


def conduct(
    file: SweepFile,
    *,
    name: str = "",
    results_dir: str = "",
    address: str = "",
    trainable: Trainable = run_trial,
) -> int:
    """Run a sweep file to its end, or to Ctrl-C; returns the exit status. Raises RequestError
    before anything is started.

    address: of a running Ray cluster; "" for RAY_ADDRESS, and without that a Ray of its own.
    """
    tracker = Tracker.open()
    with joined(address):
        planned = plan(file, name=name, results_dir=results_dir, capacity=capacity(address))
        check_new_study(file.storage, planned.name)
        folder = create_folder(planned, tracker)
        print(opening(planned), flush=True)
        with folder.conducting():
            return Conductor(planned, folder, tracker, address, trainable).conduct()


def resume(folder: SweepFolder, *, address: str = "", trainable: Trainable = run_trial) -> int:
    """Go on with a sweep where it was left: finished trials stay, those that were cut off continue,
    then new ones follow.

    Raises RequestError where another process conducts it, or where it does not fit what is here
    now.
    """
    record = folder.record
    tracker = Tracker.open(uri=record.store)
    with joined(address):
        recipe = Recipe(**record.recipe)
        planned = plan_again(
            folder.file, recipe, record.name, folder.directory, record.concurrent, capacity(address)
        )
        with folder.conducting():
            return Conductor(planned, folder, tracker, address, trainable).conduct()


def create_folder(planned: Plan, tracker: Tracker) -> SweepFolder:
    """The new folder of a sweep, with all that going on with it needs."""
    file = planned.file
    try:
        planned.directory.mkdir(parents=True)
    except OSError as error:
        where = planned.directory.parent
        raise RequestError(
            f"results_dir '{where}' cannot be written: {error.strerror}; choose another "
            "--results_dir"
        ) from None
    begin_file(planned.directory / SWEEP_FILE, file.storage, file.storage_path)
    (planned.directory / SWEEP_FILE).write_text(yaml.safe_dump(file.to_dict(), sort_keys=False))
    folder = SweepFolder(planned.directory)
    folder.write(
        Record(
            planned.name,
            store=tracker.uri,
            storage=with_absolute_path(file.storage),
            recipe=planned.recipe.to_dict(),
            concurrent=planned.concurrent,
            data=dataclasses.asdict(planned.data),
            cpus=float(planned.recipe.threads * planned.recipe.train_workers),
            gpus=planned.gpus_of_trial,
            trials=file.trials,
            budget_s=file.time_budget_min * 60 if file.time_budget_min else None,
            confirm_seeds=file.confirm_seeds,
            began=time.time(),
        )
    )
    return folder


@dataclass
class Conductor:
    """One session of a sweep: this process, from here to its end."""

    plan: Plan
    folder: SweepFolder
    tracker: Tracker
    address: str
    trainable: Trainable
    parent: str = ""
    ray: ExitStack = field(default_factory=ExitStack)

    def conduct(self) -> int:
        """Search, confirm, say what was found; returns the exit status."""
        with self.tracker.buffered(self.folder.directory):
            self.parent = self._parent_run()
            try:
                with self.ray:
                    return self._conduct()
            except STORAGE_ERRORS as error:
                cause = (
                    f"storage {shown(self.folder.storage_url())} does not answer any more: "
                    f"{reason_of(error)}"
                )
                self._break_off(cause)
                raise RunFailed(
                    f"{cause}; when it does: rbnn resume {self.folder.handle}"
                ) from error
            except BaseException as error:
                self._break_off(f"{type(error).__name__}: {error}")
                raise

    def _break_off(self, cause: str) -> None:
        self.tracker.finish(self.parent, "FAILED", cause=cause)
        self.folder.end_session("failed", cause)

    def _conduct(self) -> int:
        storage = self.folder.storage_url()
        phase = search_phase(self.plan, storage, self.folder.record.trials)
        board, stop = self._search(phase)
        settings: list[Setting] = []
        if not stop.by_user and board.best and self.folder.record.confirm_seeds:
            stop, confirmation = self._confirm(storage, board)
            if settings := settings_of(confirmation):
                board.confirmed = settings[0].number
        state: State = "stopped" if stop.by_user else "finished" if board.best else "failed"
        close_parent(
            self.tracker, self.parent, board, state, self.folder.record.sessions, stop.reason
        )
        self.folder.end_session(state, stop.reason)
        report = publish(self.folder, self.tracker)
        lines = confirmation_table(settings) if settings else []
        print_result(board, stop, lines, self.folder.handle, self._pages())
        print(f"report:                            {report.files[0]}")
        return {"finished": 0, "stopped": 130}.get(state, 1)

    def _pages(self) -> str:
        """Where a server shows the trials; "" for a database, whose pages nobody serves now."""
        uri = self.tracker.uri
        return (
            view_link(without_login(uri), self.tracker.experiment_id, self.plan.name)
            if is_server(uri)
            else ""
        )

    def _search(self, phase: Phase) -> tuple[Board, Stop]:
        record = self.folder.record
        left = None if record.budget_s is None else record.budget_s - record.used_s
        stop = self._stop(left)
        runs = self._align(phase.history, RecordTrials, "trial")
        board = board_of(phase.history, record.trials, self.plan.recipe.epochs, runs)
        after = num_confirming(self.plan.file.confirm_top, record.confirm_seeds, record.trials)
        board.epochs_after, board.budget_s = after * board.num_epochs, left
        if left is not None and left <= 0:
            stop.because(BUDGET)
        else:
            self._run(phase, board, runs, stop, RecordTrials)
        return board, stop

    def _confirm(self, storage: str, search: Board) -> tuple[Stop, History]:
        stop, num_seeds = self._stop(None), self.folder.record.confirm_seeds
        earlier = History(storage, self.plan.name + SUFFIX)
        runs = self._align(earlier, RecordConfirmation, "confirm")
        phase = confirm_phase(self.plan, storage, search.rows, num_seeds)
        total = len(phase.history.trials())
        board = board_of(
            phase.history, total, self.plan.recipe.epochs, runs, noun=RecordConfirmation.noun
        )
        if phase.num_trials:
            say(
                f"confirming the best settings with {num_seeds} fresh seeds each: "
                f"{phase.num_trials} runs"
            )
        self._run(phase, board, runs, stop, RecordConfirmation)
        return stop, phase.history

    def _run(
        self,
        phase: Phase,
        board: Board,
        runs: dict[int, str],
        stop: Stop,
        recorder_type: type[RecordTrials],
    ) -> None:
        if phase.num_trials == 0:
            return
        self._connect()
        with SweepDisplay(board) as display, set_by_signals(stop):
            recorder = recorder_type(
                self.plan,
                board,
                self.tracker,
                self.parent,
                stop,
                display.changed,
                runs,
                phase.history,
            )
            try:
                run(self.plan, phase, [recorder], stop, trainable=self.trainable)
            except KeyboardInterrupt:
                stop.because(SIGNAL)
            finally:
                recorder.end_unfinished()

    def _connect(self) -> None:
        """Ray, once for both phases; signal handlers are set later, as Ray sets its own."""
        import ray

        if not ray.is_initialized():
            self.ray.enter_context(connected(self.address))
            self.folder.update(ray=own_ray_session(self.address))

    def _align(
        self, history: History, recorder_type: type[RecordTrials], kind: str
    ) -> dict[int, str]:
        """Put right what an earlier session left when it died; returns the MLflow run of each
        trial.
        """
        self.tracker.flush()
        runs = runs_by_number(self.tracker, self.plan.name, self.parent, kind)
        ids = {number: run.info.run_id for number, run in runs.items()}
        board = Board(self.plan.name, None, self.plan.recipe.epochs)
        recorder = recorder_type(
            self.plan, board, self.tracker, self.parent, Stop(), lambda row: None, ids
        )
        for finding in examine(history, runs, recorder):
            finding.fix()
        return ids

    def _stop(self, seconds: float | None) -> Stop:
        return Stop(self.folder.stop_file, seconds, beat=self._beat)

    def _beat(self) -> None:
        self.folder.beat()
        lost = lost_of_own_ray()
        if lost:  # Ray Tune would wait for ever
            raise RunFailed(
                f"Ray ended: its {lost} is gone, perhaps killed for lack of memory; rbnn resume "
                f"{self.folder.handle}"
            )

    def _parent_run(self) -> str:
        """The sweep's own run in MLflow: the one it has, brought back where it was deleted, or a
        new one.
        """
        record = self.folder.record
        begun = record.parent or find_parent(self.tracker, record)
        stage = self.tracker.lifecycle(begun) if begun else ""
        if begun and not stage:
            say(
                f"the MLflow store does not hold run {begun[:8]} of this sweep any more; it is "
                "recorded anew"
            )
            begun = ""
        if stage == "deleted":
            say(f"MLflow run {begun[:8]} of this sweep was deleted; it is restored")
            self.tracker.client.restore_run(begun)
        if begun:
            self.tracker.resume_run(begun)
        parent = begun or start_parent(self.tracker, self.plan)
        self.folder.update(parent=parent)
        return parent
