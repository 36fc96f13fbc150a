"""One session of a sweep: this process, from its plan to the end of search and confirmation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import ray

from rbnn.errors import RequestError, RunFailed
from rbnn.recipe import Recipe
from tune.cluster.daemons import lost_of_own_ray, own_ray_session
from tune.cluster.ray import capacity, connected, joined
from tune.run.failure import disk_trouble, full_disk
from tune.run.folder import State
from tune.run.listener import Listener
from tune.sweep.callback import SweepCallback
from tune.sweep.config import SweepConfig
from tune.sweep.confirm import num_confirming, settings_of
from tune.sweep.folder import SweepFolder
from tune.sweep.lineage import lessons, study_of, teach
from tune.sweep.plan import SweepPlan, about, create_folder, plan, plan_again
from tune.sweep.repair import check_study, examine
from tune.sweep.stop import BUDGET, SIGNAL, Broken, Interruption, StopSignal, left_without_gcs
from tune.sweep.storage import STORAGE_ERRORS, check_storage_url, reason_of
from tune.sweep.study import SUFFIX, Study, begin_study
from tune.sweep.table import TrialTable, table_of
from tune.sweep.trial import run_trial
from tune.sweep.tuner import RAY, Phase, Trainable, confirm_phase, proposals_of, run, search_phase
from tune.uris import shown

Began = Callable[[SweepPlan, SweepFolder], object]


def run_sweep(
    config: SweepConfig,
    *,
    store: str,
    name: str = "",
    results_dir: str = "",
    address: str = "",
    listener: Listener,
    signals: Interruption | None = None,
    began: Began = lambda plan, folder: None,
    trainable: Trainable = run_trial,
    learn_from: Sequence[SweepFolder] = (),
) -> tuple[SweepFolder, StopSignal]:
    """Run a sweep file to its end, or until it is stopped, and say why it ended.

    Raises RequestError before anything is started. store: URI of the MLflow store that the sweep
    belongs to. began: called when the folder is there and nothing runs yet. Others: as
    `tune.run_sweep` takes them.
    """
    with joined(address):
        planned = plan(config, name=name, results_dir=results_dir, capacity=capacity(address))
        check_storage_url(config.storage)
        known = lessons(config.space, planned.recipe, learn_from)
        folder = create_folder(planned, store)
        with folder.conducting():
            session = SweepSession(planned, folder, listener, address, trainable, signals)

            def begin() -> None:
                try:
                    begin_study(folder.storage_url(), planned.name, folder.info.id, about(planned))
                except RequestError:
                    shutil.rmtree(planned.directory)
                    raise
                if known:
                    teach(study_of(folder), proposals_of(planned), known)
                    names = {"sweep/learn_from": " ".join(known)}
                    folder.update(params={**folder.record.params, **names})
                began(planned, folder)

            return folder, session.run(begin)


def resume_sweep(
    folder: SweepFolder,
    *,
    store: str,
    address: str = "",
    listener: Listener,
    signals: Interruption | None = None,
    trainable: Trainable = run_trial,
) -> StopSignal:
    """Go on with a sweep: finished trials stay, those that were cut off continue, then new ones
    follow. RequestError where another process conducts it, or where it does not fit what is here.
    """
    record, config = folder.record, folder.unchanged_config
    recipe, directory = Recipe(**record.recipe), folder.directory
    with joined(address):
        room = capacity(address)
        planned = plan_again(config, recipe, record.name, directory, record.concurrent, room)
        check_study(folder)
        with folder.conducting():
            folder.update(store=store, storage=record.storage)
            return SweepSession(planned, folder, listener, address, trainable, signals).run()


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
    ended: tuple[StopSignal, State, str] | None = None  # its state and cause, when all is done

    def run(self, begin: Callable[[], object] = lambda: None) -> StopSignal:
        """`begin`, search, confirm, and record how it ended; returns why early, if it did."""
        try:
            begin()
            self.listener.run_began(self.folder)
            with self.ray:
                return self._run()
        except (KeyboardInterrupt, SystemExit):  # the latter is Ray's own answer to SIGTERM
            if self.ended:  # it came too late to change anything
                self._end(*self.ended[1:])
                return self.ended[0]
            self._end("stopped", SIGNAL)
            raise
        except BaseException as error:
            failure = self._failed(error)
            if failure is error:
                raise
            raise failure from error

    def _failed(self, raised: BaseException) -> BaseException:
        """Record that the sweep failed, as far as that goes; returns what to raise, one line."""
        error = raised
        if isinstance(raised, Broken) and raised.__cause__:
            error = raised.__cause__
        cause, failure, handle = f"{type(error).__name__}: {error}", error, self.folder.handle
        if trouble := disk_trouble(error):
            cause, remedy = full_disk(trouble)
            failure = RunFailed(f"{cause}; {remedy}, then: rbnn resume {handle}")
        elif isinstance(error, STORAGE_ERRORS):
            storage = shown(self.folder.storage_url())
            cause = f"storage {storage} does not answer any more: {reason_of(error)}"
            failure = RunFailed(f"{cause}; when it does: rbnn resume {handle}")
        if self.folder.exists:  # not where the sweep was refused
            with suppress(OSError):
                self._end("failed", cause)
        return failure

    def _run(self) -> StopSignal:
        table, stop = self._search()
        if not stop.by_user and table.best and self.folder.record.confirm_seeds:
            stop = self._confirm(table)
        self._summarise(table)
        state: State = "stopped" if stop.by_user else "finished"
        cause = stop.reason
        if not stop.by_user and not table.best:
            causes = [row.cause for row in table.ended if row.cause]
            state, cause = "failed", cause or next(iter(causes), "no trial ran to its end")
        self.ended = stop, state, cause
        self._end(state, cause)
        return stop

    def _end(self, state: State, cause: str) -> None:
        self.folder.end(state, cause)
        self.listener.run_ended(self.folder)

    def _search(self) -> tuple[TrialTable, StopSignal]:
        record, num_epochs = self.folder.record, self.plan.recipe.epochs
        left = None if record.budget_s is None else record.budget_s - record.used_s
        phase = search_phase(self.plan, self.folder.storage_url(), record.trials)
        phase.study.only_within(self.plan.config.space.distributions, self.listener.said)
        self._repair(phase.study)
        table, stop = self._table(phase.study, record.trials), self._stop(left)
        after = num_confirming(self.plan.config.confirm_top, record.confirm_seeds, record.trials)
        table.epochs_after, table.budget_s = after * num_epochs, left
        if left is not None and left <= 0:
            stop.because(BUDGET)
        else:
            self._run_phase(phase, table, stop)
        return table, stop

    def _confirm(self, search: TrialTable) -> StopSignal:
        storage, num_seeds = self.folder.storage_url(), self.folder.record.confirm_seeds
        self._repair(Study(storage, self.plan.name + SUFFIX))
        phase = confirm_phase(self.plan, storage, search.rows, num_seeds)
        table, stop = self._table(phase.study, len(phase.study.trials())), self._stop(None)
        table.noun = "confirmation run"
        if phase.num_trials:
            runs = f"with {num_seeds} fresh seeds each: {phase.num_trials} runs"
            self.listener.said(f"confirming the best settings {runs}")
        self._run_phase(phase, table, stop)
        if settings := settings_of(phase.study):
            search.confirmed = settings[0].number
        return stop

    def _summarise(self, table: TrialTable) -> None:
        """The result as values of the sweep's own run; a later session is a later step."""
        found: dict[str, float] = {}
        for row in table.ended:
            found[f"sweep/{row.state}"] = found.get(f"sweep/{row.state}", 0.0) + 1
        for name, one in {"val/top1": table.best, "sweep/default_top1": table.baseline}.items():
            if one and one.top1 is not None:
                found[name] = one.top1
        if found:
            self.folder.add_points(self.folder.record.sessions - 1, found)

    def _run_phase(self, phase: Phase, table: TrialTable, stop: StopSignal) -> None:
        if phase.num_trials == 0:
            return
        if not ray.is_initialized():  # once for both phases
            nested = self.plan.recipe.train_workers > 1
            self.ray.enter_context(connected(self.address, dashboard=nested, mps=self.plan.mps))
            self.folder.update(ray=own_ray_session(self.address))
        self.listener.trials_began(table)
        callback = SweepCallback(self.plan, table, phase.study, stop, self.listener)
        signals = self.signals or Interruption()
        signals.install()  # Ray has set handlers of its own
        try:
            signals.stop = stop
            if signals.num_received:  # while Ray started
                raise KeyboardInterrupt
            with left_without_gcs(signals, stop):
                run(self.plan, phase, [callback], stop, trainable=self.trainable)
        except KeyboardInterrupt:
            stop.because(SIGNAL)
        except BaseException as error:
            self.ray.close()  # from here on nobody writes
            if disk_trouble(error):  # what Ray Tune keeps, and nobody reads, makes room for the end
                shutil.rmtree(self.plan.directory / RAY, ignore_errors=True)
            raise
        finally:
            signals.stop = None
            callback.end_unfinished()
            self.listener.trials_ended()

    def _repair(self, study: Study) -> None:
        """Put right what an earlier session left when it died."""
        for finding in examine(study, self.plan):
            finding.fix()

    def _table(self, study: Study, num_trials: int | None) -> TrialTable:
        return table_of(study, self.plan.directory, num_trials, self.plan.recipe.epochs)

    def _stop(self, seconds: float | None) -> StopSignal:
        return StopSignal(self.folder.stop_file, seconds, beat=self._beat)

    def _beat(self) -> None:
        self.folder.beat()
        if lost := lost_of_own_ray():  # Ray Tune would wait for ever
            what = f"its {lost} is gone, perhaps killed for lack of memory"
            raise RunFailed(f"Ray ended: {what}; rbnn resume {self.folder.handle}")
