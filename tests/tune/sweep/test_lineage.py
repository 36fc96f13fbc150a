"""What a sweep takes from others' trials: stopped ones that go on, the best trained longer, earlier
sweeps learned from. No Ray, no training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from rbnn.engine import LAST
from rbnn.errors import RequestError
from tune.run.journal import JOURNAL, Journal
from tune.sweep.audit import audit_of
from tune.sweep.config import parse_sweep
from tune.sweep.folder import SweepFolder, trial_directory
from tune.sweep.forecast import first_points, forecast
from tune.sweep.lineage import extend_epochs, lessons, promote, study_of, teach
from tune.sweep.plan import create_folder, plan
from tune.sweep.searcher import spec_of
from tune.sweep.study import LEARNED, ORIGIN, VALUES, Study, begin_study
from tune.sweep.tuner import proposals_of

KEYS: dict[str, Any] = {
    "base": {"dataset": "digits", "epochs": 9, "Tmin": 0.3, "Tmax": 3, "gpus": "none"},
    "space": {"lr": {"log": [0.01, 1]}},
    "scheduler": {"name": "asha", "grace_period": 3},
    **{"name": "look", "trials": 6, "sampler": "random", "confirm_seeds": 0},
}


def sweep(where: Path, name: str = "look", **changes: Any) -> SweepFolder:
    """A sweep of which two trials are complete and the others stopped after epoch 3, the last of
    them in a schedule of its own.
    """
    planned = plan(parse_sweep({**KEYS, **changes}, where), name=name, results_dir=str(where))
    folder = create_folder(planned, "sqlite:///mlflow.db")
    begin_study(folder.storage_url(), name, folder.info.id)
    study, proposals = Study(folder.storage_url(), name), proposals_of(planned)
    proposals.enqueue(study)
    for number in range(planned.config.trials):
        trial = proposals.next(study)
        assert trial is not None
        epochs = 9 if number < 2 else 3
        journal = Journal(trial_directory(folder.directory, number))
        for epoch in range(epochs):
            journal.append({"epoch": epoch, "val/top1": 50.0 + epoch + number})
            study.note(number, epoch + 1, 50.0 + epoch + number)
        (journal.file.with_name(LAST)).write_bytes(b"weights of %d" % number)
        if number == 5:
            study.tag(number, VALUES, {**trial.user_attrs[VALUES], "epochs": 3})
        whole = (TrialState.COMPLETE, 58.0 + number) if epochs == 9 else (TrialState.PRUNED,)
        study.end(number, *whole)
    return folder


def test_a_stopped_trial_goes_on_as_a_new_one_from_its_checkpoint(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    promote(folder, [3, 3])
    study, directory = study_of(folder), trial_directory(folder.directory, 6)
    trial = study.take_interrupted()
    assert trial is not None and trial.user_attrs[ORIGIN] == 3 and folder.record.trials == 7
    spec, source = spec_of(trial), study.trials()[3]
    assert (spec.number, spec.values, spec.epochs_done) == (6, source.user_attrs[VALUES], 3)
    for name in (LAST, JOURNAL):
        known = trial_directory(folder.directory, 3) / name
        assert (directory / name).read_bytes() == known.read_bytes()
    assert sorted(file.name for file in directory.iterdir()) == [LAST, JOURNAL]
    assert not [text for text in audit_of(folder).wrong if "trial 6" in text]


def test_what_cannot_be_promoted_is_refused(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    (trial_directory(folder.directory, 4) / LAST).unlink()
    for number, message in {
        9: "has no trial 9",
        1: "trial 1 of 'look' is complete; promote takes stopped",
        5: "ended its schedule of 3 epochs and cannot go on; rbnn extend",
        4: "has no last.ckpt in",
    }.items():
        with pytest.raises(RequestError, match=message):
            promote(folder, [2, number])
    assert len(study_of(folder).trials()) == 6


def test_the_best_are_trained_longer_as_new_trials(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    extend_epochs(folder, 20, 1)
    trial = study_of(folder).take_interrupted()
    assert trial is not None and folder.record.trials == 7
    best = study_of(folder).trials()[1].user_attrs[VALUES]
    assert trial.user_attrs == {VALUES: {**best, "epochs": 20}, ORIGIN: 1}
    assert spec_of(trial).epochs_done == 0
    with pytest.raises(RequestError, match="--epochs is 9; it must be above 9"):
        extend_epochs(folder, 9, 1)


def test_a_new_sweep_learns_what_an_earlier_one_found_within_its_space(tmp_path: Path) -> None:
    earlier = sweep(tmp_path)
    keys = {**KEYS, "space": {"lr": {"log": [0.09, 2]}, "weight_decay": {"log": [1e-5, 1e-2]}}}
    config = parse_sweep({**keys, "sampler": "gp", "scheduler": "short", "trials": 20}, tmp_path)
    known = lessons(config.space, config.baseline, [earlier])
    planned = plan(config, name="new", results_dir=str(tmp_path))
    folder = create_folder(planned, "sqlite:///mlflow.db")
    begin_study(folder.storage_url(), "new", folder.info.id)
    ours, theirs, proposals = study_of(folder), study_of(earlier).trials(), proposals_of(planned)
    teach(ours, proposals, known)
    within = [t.number for t in theirs if t.user_attrs[VALUES]["lr"] >= 0.09]
    assert 1 < len(within) < 6
    learned = [t for t in ours.trials() if t.state.is_finished()]
    assert [t.user_attrs[LEARNED] for t in learned] == [f"look/{number}" for number in within]
    assert [t.value for t in learned] == [theirs[number].value for number in within]
    assert all(t.params["weight_decay"] == config.baseline.weight_decay for t in learned)
    first, second = proposals.next(ours), proposals.next(ours)
    assert first is not None and second is not None and first.user_attrs[VALUES]["lr"] == 0.1
    best = max((theirs[n] for n in within if n < 2), key=lambda trial: trial.value or 0)
    assert second.user_attrs[LEARNED] == f"look/{best.number}"
    assert {0: first.user_attrs[VALUES], 1: second.user_attrs[VALUES]} == {
        number: values for number, values in first_points(planned, known).items() if number < 2
    }
    found = forecast(planned, (1.0, "recorded"), known)
    assert found.num_short == proposals.num_short - len(within) == 6 - found.num_learned
    assert ours.finished == []  # what was learned is no trial of this sweep


def test_a_sweep_of_another_recipe_teaches_nothing(tmp_path: Path) -> None:
    earlier = sweep(tmp_path)
    other = parse_sweep({**KEYS, "base": {**KEYS["base"], "batch_size": 64}}, tmp_path)
    with pytest.raises(RequestError, match="'look' has no finished trial of the same recipe"):
        lessons(other.space, other.baseline, [earlier])
