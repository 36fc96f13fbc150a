"""One session of a sweep: this process, from planning or taking up to the end of search and
confirmation.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import yaml

from rbnn.errors import RequestError, RunFailed
from rbnn.files import write_atomically
from rbnn.recipe import Recipe
from tune.cluster.ray import capacity, connected, joined, lost_of_own_ray, own_ray_session
from tune.run.folder import new_id
from tune.run.listener import Listener
from tune.sweep.callback import SweepCallback
from tune.sweep.config import SweepConfig
from tune.sweep.confirm import SUFFIX, num_confirming, settings_of
from tune.sweep.folder import SWEEP_FILE, SweepFolder, SweepRecord, private_mode
from tune.sweep.plan import SweepPlan, plan, plan_again
from tune.sweep.repair import examine, missing_study
from tune.sweep.standing import board_of
from tune.sweep.stop import BUDGET, SIGNAL, Interruption, StopSignal
from tune.sweep.study import STORAGE_ERRORS, Study, begin_study, check_storage_url, reason_of
from tune.sweep.table import TrialTable
from tune.sweep.trial import run_trial
from tune.sweep.tuner import Phase, Trainable, confirm_phase, run, search_phase
from tune.uris import shown, with_absolute_path

Began = Callable[[SweepPlan, SweepFolder], object]


def run_sweep(
    file: SweepConfig,
    *,
    store: str,
    name: str = "",
    results_dir: str = "",
    address: str = "",
    listener: Listener,
    signals: Interruption | None = None,
    began: Began = lambda plan, folder: None,
    trainable: Trainable = run_trial,
) -> tuple[SweepFolder, StopSignal]:
    """Run a sweep file to its end, or until it is stopped, and say why it ended.

    Raises RequestError before anything is started. store: URI of the MLflow store that the sweep
    belongs to. address: of a running Ray cluster; "" for RAY_ADDRESS, and without that a Ray of its
    own. began: called when the folder is there and nothing runs yet.
    """
    with joined(address):
        planned = plan(file, name=name, results_dir=results_dir, capacity=capacity(address))
        check_storage_url(file.storage)
        folder = create_folder(planned, store)
        try:
            begin_study(folder.storage_url(), planned.name, folder.info.id)
        except RequestError:
            shutil.rmtree(planned.directory)
            raise
        with folder.conducting():
            began(planned, folder)
            session = SweepSession(planned, folder, listener, address, trainable, signals)
            return folder, session.run()


def resume_sweep(
    folder: SweepFolder,
    *,
    store: str,
    address: str = "",
    listener: Listener,
    signals: Interruption | None = None,
    trainable: Trainable = run_trial,
) -> StopSignal:
    """Go on with a sweep where it was left: finished trials stay, those that were cut off continue,
    then new ones follow.

    Raises RequestError where another process conducts it, or where it does not fit what is here.
    """
    record = folder.record
    with joined(address):
        planned = plan_again(
            folder.file,
            Recipe(**record.recipe),
            record.name,
            folder.directory,
            record.concurrent,
            capacity(address),
        )
        if missing := missing_study(folder):
            raise RequestError(missing)
        with folder.conducting():
            folder.update(store=store, storage=record.storage)
            return SweepSession(planned, folder, listener, address, trainable, signals).run()


def create_folder(planned: SweepPlan, store: str) -> SweepFolder:
    """The new folder of a sweep, with all that going on with it needs."""
    file, where = planned.file, planned.directory.parent
    try:
        planned.directory.mkdir(parents=True)
    except OSError as error:
        raise RequestError(
            f"results_dir '{where}' cannot be written: {error.strerror}; choose another "
            "--results_dir"
        ) from None
    folder, sweep_id = SweepFolder(planned.directory), new_id()
    text = yaml.safe_dump(file.to_dict(), sort_keys=False)
    mode = private_mode(file.storage, file.storage_path)
    write_atomically(planned.directory / SWEEP_FILE, text, mode=mode)
    folder.describe(planned.recipe)
    record = SweepRecord(
        id=sweep_id,
        kind="sweep",
        name=planned.name,
        tags={
            "rbnn.sweep": planned.name,
            "rbnn.sweep_id": sweep_id,
            "rbnn.recipe": file.name,
        },
        params=search_params(planned),
        description=file.description,
        data=dataclasses.asdict(planned.data),
        began=time.time(),
        store=store,
        storage=with_absolute_path(file.storage),
        recipe=planned.recipe.to_dict(),
        concurrent=planned.concurrent,
        cpus=float(planned.recipe.threads * planned.recipe.train_workers),
        gpus=planned.gpus_of_trial,
        trials=file.trials,
        budget_s=file.time_budget_min * 60 if file.time_budget_min else None,
        confirm_seeds=file.confirm_seeds,
    )
    folder.write(record)
    return folder


def search_params(planned: SweepPlan) -> dict[str, Any]:
    """How the sweep searches, as params beside those of its recipe: space, sampler, scheduler,
    budget, seeds.
    """
    file = planned.file
    found: dict[str, Any] = {}
    for name in ("sampler", "seed", "trials", "time_budget_min", "confirm_top", "confirm_seeds"):
        if (value := getattr(file, name)) is not None:
            found[f"sweep/{name}"] = value
    words = [
        f"{key}={value:g}" if key != "name" else value
        for key, value in file.scheduler.to_dict().items()
    ]
    found |= {"sweep/concurrent": planned.concurrent, "sweep/scheduler": " ".join(words)}
    return found | {f"space/{name}": f"{kind} {text}" for name, kind, text in file.space.describe()}


@dataclass
class SweepSession:
    """This process's part of a sweep. `listener` hears of it, and of every trial."""

    plan: SweepPlan
    folder: SweepFolder
    listener: Listener
    address: str
    trainable: Trainable
    signals: Interruption | None = None
    ray: ExitStack = field(default_factory=ExitStack)

    def run(self) -> StopSignal:
        """Search, confirm, and record how it ended; returns why it ended early, if it did."""
        self.listener.run_began(self.folder)
        try:
            with self.ray:
                return self._run()
        except STORAGE_ERRORS as error:
            storage = shown(self.folder.storage_url())
            cause = f"storage {storage} does not answer any more: {reason_of(error)}"
            self._end("failed", cause)
            again = f"rbnn resume {self.folder.handle}"
            raise RunFailed(f"{cause}; when it does: {again}") from error
        except KeyboardInterrupt:
            self._end("stopped", SIGNAL)
            raise
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise

    def _end(self, state: Any, cause: str) -> None:
        self.folder.end(state, cause)
        self.listener.run_ended(self.folder)

    def _run(self) -> StopSignal:
        storage = self.folder.storage_url()
        phase = search_phase(self.plan, storage, self.folder.record.trials)
        table, stop = self._search(phase)
        if not stop.by_user and table.best and self.folder.record.confirm_seeds:
            stop = self._confirm(storage, table)
        state = "finished" if table.best else "failed"
        state = "stopped" if stop.by_user else state
        self._summarise(table)
        self._end(state, stop.reason or (self._why_nothing(table) if state == "failed" else ""))
        return stop

    def _why_nothing(self, table: TrialTable) -> str:
        causes = [row.cause for row in table.ended if row.cause]
        return causes[0] if causes else "no trial ran to its end"

    def _summarise(self, table: TrialTable) -> None:
        """The result as values of the sweep's own run; a later session is a later step."""
        found: dict[str, float] = {}
        for row in table.ended:
            found[f"sweep/{row.state}"] = found.get(f"sweep/{row.state}", 0.0) + 1
        best, baseline = table.best, table.baseline
        if best and best.top1 is not None:
            found["val/top1"] = best.top1
        if baseline and baseline.top1 is not None:
            found["sweep/default_top1"] = baseline.top1
        if found:
            self.folder.add_points(self.folder.record.sessions - 1, found)

    def _search(self, phase: Phase) -> tuple[TrialTable, StopSignal]:
        record = self.folder.record
        left = None if record.budget_s is None else record.budget_s - record.used_s
        stop = self._stop(left)
        self._repair(phase.history)
        table = board_of(phase.history, self.plan.directory, record.trials, self.plan.recipe.epochs)
        after = num_confirming(self.plan.file.confirm_top, record.confirm_seeds, record.trials)
        table.epochs_after, table.budget_s = after * table.num_epochs, left
        if left is not None and left <= 0:
            stop.because(BUDGET)
        else:
            self._run_phase(phase, table, stop)
        return table, stop

    def _confirm(self, storage: str, search: TrialTable) -> StopSignal:
        stop, num_seeds = self._stop(None), self.folder.record.confirm_seeds
        self._repair(Study(storage, self.plan.name + SUFFIX))
        phase = confirm_phase(self.plan, storage, search.rows, num_seeds)
        table = board_of(
            phase.history,
            self.plan.directory,
            len(phase.history.trials()),
            self.plan.recipe.epochs,
            noun="confirmation run",
        )
        if phase.num_trials:
            self.listener.said(
                f"confirming the best settings with {num_seeds} fresh seeds each: "
                f"{phase.num_trials} runs"
            )
        self._run_phase(phase, table, stop)
        if settings := settings_of(phase.history):
            search.confirmed = settings[0].number
        return stop

    def _run_phase(self, phase: Phase, table: TrialTable, stop: StopSignal) -> None:
        if phase.num_trials == 0:
            return
        self._connect()
        self.listener.trials_began(table)
        callback = SweepCallback(self.plan, table, phase.history, stop, self.listener)
        signals = self.signals or Interruption()
        try:
            signals.stop = stop
            if signals.num_received:  # while Ray started
                raise KeyboardInterrupt
            run(self.plan, phase, [callback], stop, trainable=self.trainable)
        except KeyboardInterrupt:
            stop.because(SIGNAL)
        finally:
            signals.stop = None
            callback.end_unfinished()
            self.listener.trials_ended()

    def _connect(self) -> None:
        """Ray, once for both phases; signal handlers are set later, as Ray sets its own."""
        import ray

        if not ray.is_initialized():
            self.ray.enter_context(connected(self.address))
            self.folder.update(ray=own_ray_session(self.address))
            if self.signals:
                self.signals.install()

    def _repair(self, study: Study) -> None:
        """Put right what an earlier session left when it died."""
        for finding in examine(study, self.plan):
            finding.fix()

    def _stop(self, seconds: float | None) -> StopSignal:
        return StopSignal(self.folder.stop_file, seconds, beat=self._beat)

    def _beat(self) -> None:
        self.folder.beat()
        lost = lost_of_own_ray()
        if lost:  # Ray Tune would wait for ever
            raise RunFailed(
                f"Ray ended: its {lost} is gone, perhaps killed for lack of memory; rbnn resume "
                f"{self.folder.handle}"
            )


def extend_budget(folder: SweepFolder, trials: int | None, hours: float | None) -> None:
    """Add trials to those that the sweep has or was to have, or hours from now; RequestError where
    neither can be.
    """
    if trials is None and hours is None:
        raise RequestError("extend adds nothing; give --trials N or --hours H")
    if trials is not None and trials < 1:
        raise RequestError(f"--trials is {trials}; it must be at least 1")
    if hours is not None and not 0 < hours < float("inf"):
        raise RequestError(f"--hours is {hours:g}; it must be above 0")
    record, file = folder.record, folder.file
    history = Study.existing(folder.storage_url(record), record.name)
    begun = len(history.finished) if history else 0
    if file.sampler == "grid" and begun >= len(file.space.grid()):
        raise RequestError(
            f"sweep '{record.name}' has tried its whole grid; widen the space in a new sweep"
        )
    budget = None if trials is None else max(record.trials or 0, begun) + trials
    folder.update(trials=budget, budget_s=None if hours is None else folder.used_s + hours * 3600)
