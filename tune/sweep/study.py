"""A sweep's trials as its Optuna study holds them: the one place that reads and changes them.

An interrupted trial WAITS in the study: samplers pass it over, and it is taken up again with its
number, values and scores. Steps of intermediate values are epochs completed, from 1.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from rbnn.errors import RequestError
from tune.sweep.folder import CONFIRM, TRIALS
from tune.sweep.storage import open_storage
from tune.uris import shown, sqlite_path

VALUES = "values"  # the recipe values of a trial, by option name
BUSY_S = "busy_s"  # seconds that a trial has held its place
SINCE = "since"  # when a running trial took its place, in seconds since 1970
CAUSE = "cause"
PROPOSED = "proposed"  # how the study stood when the trial was proposed
JUDGED = "judged"  # the same by epoch, for each rung at which it was judged
ORIGIN = "from"  # the number of the trial that this one goes on with
LEARNED = "learned_from"  # SWEEP/NUMBER of an earlier sweep's trial
RUN = "run"  # the id of its run
SWEEP = "rbnn.sweep_id"  # attribute of a study: the id of the sweep that it belongs to
SUFFIX = ".confirm"  # of the study of a sweep's confirmation


class Study:
    """The study of that name in an Optuna storage (URL, None for memory), begun where missing."""

    def __init__(self, storage: str | None, name: str) -> None:
        self._url, self.name = storage, name
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
        if self.name in optuna.get_all_study_names(storage):  # only read, which anybody may
            self.study = optuna.load_study(study_name=self.name, storage=storage)
        else:
            self.study = optuna.create_study(
                storage=storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
        self._ids: dict[int, int] = {}
        self._space: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles what holds it; a study on disk is reopened rather than copied."""
        kept = self._storage if self._url is None else None
        return {"_url": self._url, "name": self.name, "_storage": kept}

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
        # Optuna's storage in memory, asked for waiting ones, misses those that were running before.
        found = self.study.get_trials(deepcopy=False)
        return [trial for trial in found if trial.state in states] if states else found

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
                where = "lined up from outside, is not in the search space"
                text = f"{given}, {where}; it is passed over"
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

    def standing(self, trials: Sequence[FrozenTrial] | None = None) -> dict[str, Any]:
        """How far the trials are now, which `as_of` goes back to: how many there are, and of each
        that has not ended [number, epochs done, whether it waits]. trials: all, where just read.
        """
        trials = trials or self.trials()
        begun = [trial for trial in trials if not trial.state.is_finished()]
        rows = [[t.number, last_epoch(t), t.state == TrialState.WAITING] for t in begun]
        return {"of": len(trials), "open": rows}

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

    def add(
        self,
        state: TrialState,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attributes: dict[str, Any],
        scores: dict[int, float] | None = None,
    ) -> FrozenTrial:
        """A new trial, at once with all that is known of it."""
        trial = create_trial(
            state=state,
            params=params,
            distributions=distributions,
            user_attrs=attributes,
            intermediate_values=scores,
        )
        self.study.add_trial(trial)
        return self.trials()[-1]

    def begin(
        self,
        trial: FrozenTrial,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attributes: dict[str, Any],
    ) -> FrozenTrial:
        """A trial that waits without values, now running with these."""
        self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        for name, value in params.items():
            kind = distributions[name]
            internal = kind.to_internal_repr(value)
            self._storage.set_trial_param(trial._trial_id, name, internal, kind)
        for key, value in attributes.items():
            self.tag(trial.number, key, value)
        return self.trials()[trial.number]

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids.update((trial.number, trial._trial_id) for trial in self.trials())
        return self._ids[number]


def begin_study(url: str, name: str, sweep_id: str, about: dict[str, str] | None = None) -> None:
    """Create the study of a new sweep, with attributes `about` it for people who use Optuna's own
    tools; RequestError where the storage holds one of that name.
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


def as_of(trials: Sequence[FrozenTrial], standing: Mapping[str, Any]) -> list[FrozenTrial]:
    """The trials as they were when the study stood so; what ended before has not changed since."""
    found = list(trials[: standing["of"]])
    for number, epochs, waits in standing["open"]:
        found[number] = then = copy.copy(trials[number])
        then.state, then.values = (TrialState.WAITING if waits else TrialState.RUNNING), None
        then.datetime_complete = None
        known = then.intermediate_values.items()
        then.intermediate_values = {epoch: score for epoch, score in known if epoch <= epochs}
    return found


def schedule(trial: FrozenTrial, num_epochs: int) -> int:
    """The epochs of a trial's schedule, num_epochs where it has none of its own."""
    return int(trial.user_attrs.get(VALUES, trial.user_attrs).get("epochs", num_epochs))


def last_epoch(trial: FrozenTrial) -> int:
    """Epochs that a trial has scores of, 0 for none."""
    return max(trial.intermediate_values, default=0)


def scores_at(trials: Sequence[FrozenTrial], epoch: int, *, but: int) -> list[float]:
    """The scores at an epoch of all trials that reached it, without the trial numbered `but`."""
    reached = [t for t in trials if t.number != but and epoch in t.intermediate_values]
    return [trial.intermediate_values[epoch] for trial in reached]
