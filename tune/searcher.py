"""Optuna behind Ray Tune. Ray's own OptunaSearch tells a stopped trial as complete, which mixes scores of different epochs."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray.tune.search
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from tune.space import Space

TRIAL_ID, VALUES = "trial_id", "values"
MAX_STARTUP_TRIALS = 10


class OptunaSearcher(ray.tune.search.Searcher):
    """Proposes recipe values for Ray's trials and tells an Optuna study how each ended.

    Complete: `epoch` of the last result (epochs done, from 1) is `num_epochs`. Pruned, with its last score: stopped earlier.
    Failed: an error, or no finite score at the end. Steps of intermediate values are epochs done.

    `storage`: URL of an Optuna storage, e.g. sqlite:///optuna.db, or None for memory. `first`: recipe values to try before any
    is sampled, baseline first; points that the study already holds are not added again. `num_trials`: the budget; at most half
    of it, and at most 10 trials, pass before tpe and gp begin to learn. `seed`: equal seeds and scores give equal proposals; a
    reopened study draws from another random state, or it would repeat its first proposals. A grid ends by itself.
    """

    def __init__(
        self,
        space: Space,
        *,
        metric: str,
        mode: str = "max",
        storage: str | None = None,
        study_name: str,
        sampler: str = "tpe",
        seed: int = 1234,
        num_epochs: int,
        num_trials: int = 2 * MAX_STARTUP_TRIALS,
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._space, self._storage_url, self._study_name = space, storage, study_name
        self._sampler, self._seed, self._num_epochs, self._num_trials = sampler, seed, num_epochs, num_trials
        self._numbers: dict[str, int] = {}
        self._open(optuna.storages.InMemoryStorage() if storage is None else optuna.storages.get_storage(storage))
        points = [space.raw(values) for values in first]
        if sampler == "grid":
            points += random.Random(seed).sample(space.grid(), len(space.grid()))
        self._enqueue(points)

    @property
    def study(self) -> optuna.Study:
        """The study itself, for reading."""
        return self._study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """{"overrides": recipe values, "number": Optuna's trial number}; Searcher.FINISHED once a grid is used up."""
        if self._sampler == "grid" and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return str(self.FINISHED)
        trial = self._study.ask(fixed_distributions=self._space.distributions)
        values = self._space.values(trial.params)
        trial.set_user_attr(TRIAL_ID, trial_id)
        trial.set_user_attr(VALUES, values)
        self._numbers[trial_id] = trial.number
        return {"overrides": values, "number": trial.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes the score of an epoch; a repeated epoch, after a restart from a checkpoint, replaces the earlier score."""
        trial = self._running(trial_id)
        if trial and self.metric in result:
            self._storage.set_trial_intermediate_value(trial._trial_id, int(result["epoch"]), float(result[self.metric]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how the trial ended. Ray hands the last result over here only, never to `on_trial_result` as well."""
        score = float(result[self.metric]) if result and self.metric in result and not error else math.nan
        if result and not error:
            self.on_trial_result(trial_id, result)
        number = self._numbers[trial_id]
        if self._trial(trial_id).state.is_finished():
            return
        if not result or not math.isfinite(score):
            self._study.tell(number, state=TrialState.FAIL)
        elif int(result["epoch"]) >= self._num_epochs:
            self._study.tell(number, score)
        else:
            self._study.tell(number, state=TrialState.PRUNED)

    def reconcile(self, live: Collection[str] = ()) -> list[int]:
        """Tells running trials left by a dead process as failed, as they go on acting on the sampler; returns their numbers.

        `live`: the Ray trial ids that will be resumed, and are left alone.
        """
        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [trial.number for trial in left if trial.user_attrs.get(TRIAL_ID) not in live]
        for number in dead:
            self._study.tell(number, state=TrialState.FAIL)
        return dead

    def save(self, checkpoint_path: str) -> None:
        """Writes what is needed to go on: where the study is, or, for one in memory, the study itself."""
        if self._storage_url is None:
            Path(checkpoint_path).write_bytes(pickle.dumps(self._storage))
        else:
            Path(checkpoint_path).write_text(json.dumps({"storage": self._storage_url, "study": self._study_name}))

    def restore(self, checkpoint_path: str) -> None:
        """Takes the trials up again. A study on disk is read from its storage, which is newer than any checkpoint."""
        if self._storage_url is None:
            self._open(pickle.loads(Path(checkpoint_path).read_bytes()))
        else:
            self._open(self._storage)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher into its tuner; a study on disk is reopened rather than copied."""
        hidden = ("_study",) if self._storage_url is None else ("_study", "_storage")
        return {key: value for key, value in self.__dict__.items() if key not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self._storage if self._storage_url is None else optuna.storages.get_storage(self._storage_url))

    def _open(self, storage: Any) -> None:
        """Creates or loads the study, and finds the trials that this searcher's callers know by Ray's trial id."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self._study = optuna.create_study(
            storage=storage,
            study_name=self._study_name,
            direction="maximize" if self.mode == "max" else "minimize",
            load_if_exists=True,
        )
        trials = self._study.get_trials(deepcopy=False)
        self._numbers = {trial.user_attrs[TRIAL_ID]: trial.number for trial in trials if TRIAL_ID in trial.user_attrs}
        self._study.sampler = self._new_sampler(self._seed + len(self._numbers))

    def _new_sampler(self, seed: int) -> BaseSampler:
        num_startup = max(1, min(MAX_STARTUP_TRIALS, self._num_trials // 2))
        if self._sampler == "tpe":
            return TPESampler(seed=seed, multivariate=True, n_startup_trials=num_startup)
        if self._sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=num_startup, warn_independent_sampling=False)
        return RandomSampler(seed=seed)

    def _enqueue(self, points: Sequence[dict[str, Any]]) -> None:
        known = [trial.system_attrs.get("fixed_params", trial.params) for trial in self._study.get_trials(deepcopy=False)]
        for point in points:
            if point not in known:
                self._study.enqueue_trial(point)
                known.append(point)

    def _trial(self, trial_id: str) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self._numbers[trial_id]]

    def _running(self, trial_id: str) -> FrozenTrial | None:
        """The running trial of that id, None once it ended; one told as failed that Ray runs again goes on as a new trial."""
        trial = self._trial(trial_id)
        if trial.state != TrialState.FAIL:
            return trial if trial.state == TrialState.RUNNING else None
        again = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            intermediate_values=trial.intermediate_values,
        )
        self._study.add_trial(again)
        newest = self._study.get_trials(deepcopy=False)[-1]
        self._numbers[trial_id] = newest.number
        return newest
