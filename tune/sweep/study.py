"""A sweep's trials as its Optuna study holds them: the one place that reads and changes them.

An interrupted trial WAITS in the study: samplers pass it over, and it is taken up again with its
number, values and scores. Steps of intermediate values are epochs completed, from 1.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from rbnn.errors import RequestError, one_line
from tune.run.listener import warn
from tune.sweep.folder import CONFIRM, TRIALS
from tune.uris import shown, sqlite_path

VALUES = "values"  # the recipe values of a trial, by option name
BUSY_S = "busy_s"  # seconds that a trial has held its place
SINCE = "since"  # when a running trial took its place, in seconds since 1970
CAUSE = "cause"
RUN = "run"  # the id of its run
SWEEP = "rbnn.sweep_id"  # attribute of a study: the id of the sweep that it belongs to
LOCK_WAIT_S, PATIENCE_S = 1.0, 600.0  # for a locked database file: at a time, and in all
SUFFIX = ".confirm"  # of the study of a sweep's confirmation
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)


class Study:
    """The study of that name in an Optuna storage (URL, None for memory), begun where missing."""

    def __init__(self, storage: str | None, name: str, *, mode: str = "max") -> None:
        self._url, self.name, self.mode = storage, name, mode
        self._open(optuna.storages.InMemoryStorage() if storage is None else open_storage(storage))

    @classmethod
    def existing(cls, storage: str, name: str) -> Study | None:
        """The study where the storage holds it; nothing is created. Raises as `open_storage`."""
        file = sqlite_path(storage)
        if file and not file.is_file():
            return None
        known = optuna.get_all_study_names(open_storage(storage))
        return cls(storage, name) if name in known else None

    def _open(self, storage: Any) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self.study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            direction="maximize" if self.mode == "max" else "minimize",
            load_if_exists=True,
        )
        self._ids: dict[int, int] = {}
        self._space: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles what holds it; a study on disk is reopened rather than copied."""
        kept = self._storage if self._url is None else None
        return {"_url": self._url, "name": self.name, "mode": self.mode, "_storage": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self._storage if self._url is None else open_storage(self._url))

    @property
    def kind(self) -> str:
        """Where the runs of its trials lie in the sweep's folder."""
        return CONFIRM if self.name.endswith(SUFFIX) else TRIALS

    def belongs_to(self, sweep_id: str) -> None:
        """RequestError where this is the study of another sweep, which happens to bear the name."""
        known = self.study.user_attrs.get(SWEEP)
        if known is None:
            self.study.set_user_attr(SWEEP, sweep_id)
        elif known != sweep_id:
            raise RequestError(
                f"storage {shown(self._url or '')} holds another sweep named '{self.name}'; "
                "choose another --name, or another storage"
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials by number, or those in the given states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    @property
    def finished(self) -> list[FrozenTrial]:
        """Trials that were run and ended: complete, pruned or failed."""
        return [t for t in self.trials() if t.state.is_finished() and VALUES in t.user_attrs]

    def busy_s(self, running: bool) -> float:
        """Seconds that trials have held places; where a process runs them, those of now too."""
        total = 0.0
        for trial in self.trials():
            total += trial.user_attrs.get(BUSY_S, 0.0)
            if running and trial.state == TrialState.RUNNING:
                total += time.time() - trial.user_attrs.get(SINCE, time.time())
        return total

    def only_within(self, space: dict[str, Any], say: Callable[[str], object]) -> None:
        """From now on fail what somebody else lines up outside the distributions by option."""
        self._space, self._say = space, say

    def _refuse_outside(self) -> None:
        for trial in self.trials(TrialState.WAITING):
            given = trial.system_attrs.get("fixed_params", {})
            known = {name: each for name, each in self._space.items() if name in given}
            try:
                create_trial(state=trial.state, params=given, distributions=known)
            except ValueError:
                text = (
                    f"{given}, lined up from outside, is not in the search space; it is passed over"
                )
                self.tag(trial.number, CAUSE, text)
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                self._say(f"trial {trial.number}: {text}")

    def take_interrupted(self) -> FrozenTrial | None:
        """The first waiting trial that has its values, now running; None where there is none."""
        if self._space:
            self._refuse_outside()
        for trial in self.trials(TrialState.WAITING):
            if VALUES in trial.user_attrs and self._storage.set_trial_state_values(
                trial._trial_id, TrialState.RUNNING
            ):
                return trial
        return None

    def note(self, number: int, epoch: int, score: float) -> None:
        """The score of an epoch of a trial that has not ended; a repeated epoch replaces it."""
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_intermediate_value(self._id(number), epoch, score)

    def tag(self, number: int, key: str, value: Any) -> None:
        """Set a user attribute of a trial, unless it has ended."""
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._id(number), key, value)

    def has_ended(self, number: int) -> bool:
        """Whether a trial has ended, perhaps by somebody else's hand."""
        return bool(self._storage.get_trial(self._id(number)).state.is_finished())

    def end(self, number: int, state: TrialState, score: float | None = None) -> None:
        """End a running trial, once; a pruned one keeps its last score as its value."""
        if not self.trials()[number].state.is_finished():
            self.study.tell(number, score, state=None if score is not None else state)

    def interrupt(self, number: int) -> None:
        """Let a running trial wait until it is taken up again."""
        if self.trials()[number].state == TrialState.RUNNING:
            self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def interrupt_running(self) -> list[int]:
        """Let every running trial wait, as no process runs it any more; returns their numbers."""
        running = [trial.number for trial in self.trials(TrialState.RUNNING)]
        for number in running:
            self.interrupt(number)
        return running

    def add_waiting(self, attributes: dict[str, Any]) -> None:
        """A trial that waits for its turn, with its values known."""
        self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes))

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids.update((trial.number, trial._trial_id) for trial in self.trials())
        return self._ids[number]


class PatientCursor(sqlite3.Cursor):
    """Waits, with a word, for a database file that somebody else holds locked."""

    def execute(self, *given: Any) -> Any:
        return patiently(super().execute, *given)

    def executemany(self, *given: Any) -> Any:
        return patiently(super().executemany, *given)


class PatientConnection(sqlite3.Connection):
    """A connection of such cursors."""

    def cursor(self, factory: Any = PatientCursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        patiently(super().commit)


def patiently(step: Callable[..., Any], *given: Any) -> Any:
    """A step of a transaction, again while the file is locked: SQLite itself waits a second, so
    that signals are heard.
    """
    give_up_at = None
    while True:
        try:
            return step(*given)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            if give_up_at is None:
                give_up_at = time.monotonic() + PATIENCE_S
                warn("the Optuna storage is locked by another program; waiting for it")
            elif time.monotonic() > give_up_at:
                raise


def open_storage(url: str, remedy: str = "see that it is there and answers, then try again") -> Any:
    """The Optuna storage at `url`; RequestError, one line, where none can be opened there."""
    try:
        try:
            return _open(url)
        except SQLAlchemyError as error:
            if "already exists" not in str(error):
                raise
            return _open(url)  # another process was making the tables at this very moment
    except (*STORAGE_ERRORS, ImportError, ValueError, OSError, RuntimeError) as error:
        if "optuna storage upgrade" in str(error):
            remedy = f"back it up, then: optuna storage upgrade --storage {shown(url)}"
        elif "no longer compatible" in str(error):
            remedy = "a newer Optuna has written it; install that version, or name another storage"
        reason = reason_of(error).partition(" Please ")[0]
        text = f"storage {shown(url)} cannot be used: {reason.rstrip('.')}; {remedy}"
        raise RequestError(text) from None


def _open(url: str) -> Any:
    given: dict[str, Any] = {}
    if sqlite_path(url):
        given["connect_args"] = {"factory": PatientConnection, "timeout": LOCK_WAIT_S}
    return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=given))


def reason_of(error: BaseException) -> str:
    """What a database says, in one line, without SQLAlchemy's and Optuna's wrapping."""
    while not getattr(error, "orig", None) and isinstance(error.__cause__, STORAGE_ERRORS):
        error = error.__cause__
    return one_line(getattr(error, "orig", None) or error)[:300]


def check_storage_url(url: str) -> None:
    """RequestError, one line, where no Optuna storage can be opened at `url`, or it would forget;
    "" is the sweep's own file, which cannot be wrong.
    """
    if url.startswith("sqlite:") and (sqlite_path(url) is None or ":memory:" in url):
        raise RequestError(
            f"storage {shown(url)} is in memory, and ends with its process; name a file, e.g. "
            "sqlite:////folder/optuna.db"
        )
    if url:
        open_storage(url, "give e.g. postgresql://USER@HOST/NAME, or leave it out for a file")


def begin_study(url: str, name: str, sweep_id: str, about: dict[str, str] | None = None) -> None:
    """Create the study of a new sweep; RequestError where the storage holds one of that name.

    about: attributes of the study, for people who look at it in Optuna's own tools.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    except DuplicatedStudyError:
        raise RequestError(
            f"storage {shown(url)} holds a sweep '{name}' already; choose another --name"
        ) from None
    for key, value in {SWEEP: sweep_id, **(about or {})}.items():
        study.set_user_attr(key, value)


def last_epoch(trial: FrozenTrial) -> int:
    """Epochs that a trial has scores of, 0 for none."""
    return max(trial.intermediate_values, default=0)


def scores_at(trials: Sequence[FrozenTrial], epoch: int, *, but: int) -> list[float]:
    """The scores at an epoch of all trials that reached it, without the trial numbered `but`."""
    reached = [t for t in trials if t.number != but and epoch in t.intermediate_values]
    return [trial.intermediate_values[epoch] for trial in reached]
