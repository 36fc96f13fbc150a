"""A sweep taken further, and trials that come from others: of its own, of earlier sweeps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState, create_trial

from rbnn.engine import BEST, LAST
from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import Recipe
from tune.run.journal import JOURNAL
from tune.run.remote import CheckpointStore, fetch, store_of
from tune.sweep.folder import TRIALS, SweepFolder, trial_directory
from tune.sweep.proposals import Proposals
from tune.sweep.space import Space
from tune.sweep.study import LEARNED, ORIGIN, VALUES, Study
from tune.sweep.table import STATES, ranked, rows_of

Lessons = Mapping[str, Sequence[FrozenTrial]]  # by the earlier sweep's name
TRIED_EARLY = 3  # of the settings that an earlier sweep found best


def promote(folder: SweepFolder, numbers: Sequence[int]) -> None:
    """Line up stopped trials to go on, each as a new one; RequestError where one cannot."""
    study = study_of(folder)
    chosen = [_stopped(folder, study, number) for number in dict.fromkeys(numbers)]
    for trial in chosen:
        source = trial_directory(folder.directory, trial.number)
        known = {VALUES: trial.user_attrs[VALUES], ORIGIN: trial.number}
        scores = trial.intermediate_values
        new = study.add(TrialState.WAITING, trial.params, trial.distributions, known, scores)
        target = trial_directory(folder.directory, new.number)
        copied = target.with_name(f"copied-{target.name}")
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir(parents=True)
        for name in (JOURNAL, LAST, BEST):
            if (source / name).is_file():
                shutil.copy2(source / name, copied / name)
        copied.rename(target)
        if address := _address(folder, target):
            CheckpointStore(address).push(target)
    more(folder, study, len(chosen))


def _address(folder: SweepFolder, directory: Path) -> str:
    """Of a trial's checkpoints in an object store; "" where they are in its folder alone."""
    path = folder.config.storage_path
    return store_of(path, folder.record.name, TRIALS, directory.name)


def _stopped(folder: SweepFolder, study: Study, number: int) -> FrozenTrial:
    """The trial of that number, which was stopped and left a checkpoint."""
    name, trials = folder.record.name, study.trials()
    if not 0 <= number < len(trials) or VALUES not in trials[number].user_attrs:
        raise RequestError(f"sweep '{name}' has no trial {number}; rbnn status lists its trials")
    trial = trials[number]
    if trial.state != TrialState.PRUNED:
        state = STATES[trial.state]
        raise RequestError(f"trial {number} of '{name}' is {state}; promote takes stopped trials")
    if own := trial.user_attrs[VALUES].get("epochs"):
        text = f"ended its schedule of {own} epochs and cannot go on"
        raise RequestError(f"trial {number} of '{name}' {text}; rbnn extend trains it anew, longer")
    directory = trial_directory(folder.directory, number)
    fetch(_address(folder, directory), directory)
    if not (directory / LAST).is_file():
        raise RequestError(f"trial {number} of '{name}' has no {LAST} in {directory}")
    return trial


def extend_epochs(folder: SweepFolder, epochs: int, top: int) -> None:
    """Line up the best complete trials anew, at a longer schedule; RequestError where none can."""
    study, name, known = study_of(folder), folder.record.name, folder.record.recipe["epochs"]
    if epochs <= known:
        raise RequestError(f"--epochs is {epochs}; it must be above {known}, those of the sweep")
    rows = [row for row in rows_of(study, folder.directory).values() if row.state == "complete"]
    best = [row for row in ranked(rows) if row.values.get("epochs", known) < epochs][:top]
    if not best:
        raise RequestError(f"sweep '{name}' has no trial that ran to its end; rbnn resume it first")
    for row in best:
        Recipe(**{**folder.record.recipe, **row.values, "epochs": epochs})
        trial = study.trials()[row.number]
        known = {VALUES: {**row.values, "epochs": epochs}, ORIGIN: row.number}
        study.add(TrialState.WAITING, trial.params, trial.distributions, known)
    more(folder, study, len(best))


def extend_budget(folder: SweepFolder, trials: int | None, hours: float | None) -> None:
    """Add trials to its budget, or hours from now; RequestError where neither can be."""
    if trials is None and hours is None:
        raise RequestError("extend adds nothing; give --trials N or --hours H")
    if trials is not None and trials < 1:
        raise RequestError(f"--trials is {trials}; it must be at least 1")
    if hours is not None and not 0 < hours < float("inf"):
        raise RequestError(f"--hours is {hours:g}; it must be above 0")
    record, config = folder.record, folder.unchanged_config
    study = Study.existing(folder.storage_url(record), record.name)
    begun = len(study.finished) if study else 0
    if config.sampler == "grid" and begun >= len(config.space.grid()):
        text = "has tried its whole grid; widen the space in a new sweep"
        raise RequestError(f"sweep '{record.name}' {text}")
    budget = None if trials is None else max(record.trials or 0, begun) + trials
    folder.update(trials=budget, budget_s=None if hours is None else folder.used_s + hours * 3600)


def study_of(folder: SweepFolder) -> Study:
    """The study of a sweep's search; RequestError where it is gone."""
    record = folder.record
    study = Study.existing(folder.storage_url(record), record.name)
    if study is None:
        raise RequestError(f"sweep '{record.name}' has no study; begin anew: rbnn sweep")
    return study


def more(folder: SweepFolder, study: Study, num_trials: int) -> None:
    """Give a sweep so many trials beyond those that it has, or was to have."""
    folder.update(trials=max(folder.record.trials or 0, len(study.finished)) + num_trials)


def lessons(space: Space, recipe: Recipe, earlier: Sequence[SweepFolder]) -> Lessons:
    """By name of earlier sweeps, the finished trials that a new one's sampler learns from, each
    with where it comes from; RequestError where a sweep has none that serves: its recipe differs in
    searched options alone, and the space holds it.
    """
    found = {folder.record.name: list(_serving(folder, space, recipe)) for folder in earlier}
    for name, trials in found.items():
        if not trials:
            raise RequestError(
                f"sweep '{name}' has no finished trial of the same recipe within the space; "
                "leave it out of --learn_from"
            )
    return found


def teach(study: Study, proposals: Proposals, known: Lessons) -> None:
    """Line up the best of each earlier sweep in a new one, after what its file gives, and tell it
    of all their trials.
    """
    proposals.enqueue(study)
    for trials in known.values():
        whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        for trial in sorted(whole, key=lambda each: -(each.value or 0.0))[:TRIED_EARLY]:
            study.study.enqueue_trial(trial.params, {LEARNED: trial.user_attrs[LEARNED]})
        study.study.add_trials(trials)


def _serving(folder: SweepFolder, space: Space, recipe: Recipe) -> Iterator[FrozenTrial]:
    """What the sampler may learn from, as trials of the new space."""
    record = folder.record
    for trial in study_of(folder).finished:
        values = trial.user_attrs[VALUES]
        theirs = Recipe(**{**record.recipe, **values, "epochs": record.recipe["epochs"]})
        searched = {name: getattr(theirs, name) for name in space.entries}
        ours = recipe.replace(**searched)
        if trial.value is None or theirs.to_dict("result") != ours.to_dict("result"):
            continue
        try:
            params = space.raw(searched)
        except RecipeError:
            continue
        own = {"epochs": values["epochs"]} if "epochs" in values else {}
        yield create_trial(
            state=trial.state,
            value=trial.value,
            params=params,
            distributions=space.distributions,
            user_attrs={LEARNED: f"{record.name}/{trial.number}", **own},
            intermediate_values=trial.intermediate_values,
        )
