"""One trial: what its process reports after a kill, and the test set, evaluated once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from rbnn import session
from rbnn.recipe import Recipe
from tune.run.journal import Journal
from tune.sweep.folder import CONFIRM, trial_directory
from tune.sweep.trial import Trial, TrialSpec, run_trial, score_on_test_set

BASE = Recipe(dataset="cifar10", epochs=3, val_fraction=0.1).to_dict()
Rows = list[dict[str, Any]]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    """What trials report to Ray Tune here, whose test set is evaluated once at most."""
    import ray.tune

    told: Rows = []
    evaluate = Mock(return_value=({"val/top1": 77.0, "val/loss": 1.0}, None))
    monkeypatch.setattr(ray.tune, "report", told.append)
    monkeypatch.setattr(session, "evaluate_file", evaluate)
    yield told
    assert evaluate.call_count <= 1
    for recipe, path in (call.args for call in evaluate.mock_calls):
        assert recipe.val_fraction == 0.0 and path.endswith("last.ckpt")


def score(trial: Trial, journal: Journal, tell: Any) -> None:
    """Stands for training: epochs of score 10, 20, 30 and no network."""
    for epoch in range(journal.last_epoch + 1, trial.recipe.epochs):
        journal.append({"epoch": epoch, "val/top1": 10.0 * (epoch + 1)})
        tell(journal.rows[-1])


def run(folder: Path, **given: Any) -> None:
    config = TrialSpec(4, {"lr": 0.2}, **given).to_config()
    run_trial(config, base=BASE, sweep_directory=str(folder), train=score)


@pytest.mark.parametrize(
    ("written", "known", "told"),
    [(0, 0, [1, 2, 3]), (2, 1, [1, 2, 3]), (2, 2, [2, 3]), (3, 2, [2, 3]), (3, 3, [3])],
)
def test_epochs_are_reported_from_1_and_again_where_they_may_not_have_been_heard(
    written: int, known: int, told: list[int], reported: Rows, tmp_path: Path
) -> None:
    journal = Journal(trial_directory(tmp_path, 4))
    for epoch in range(written):
        journal.append({"epoch": epoch, "val/top1": 10.0 * (epoch + 1)})
    run(tmp_path, epochs_done=known)
    assert [row["epoch"] for row in reported] == told
    assert all(row["val/top1"] == 10.0 * row["epoch"] for row in reported)


def test_a_confirmation_run_reports_the_test_set_with_its_last_epoch_and_evaluates_it_once(
    reported: Rows, tmp_path: Path
) -> None:
    run(tmp_path, test=True)
    assert trial_directory(tmp_path, 4, CONFIRM) == tmp_path / "confirm" / "0004"
    assert [row["epoch"] for row in reported] == [1, 2, 3]
    assert [row.get("test/top1") for row in reported] == [None, None, 77.0]
    run(tmp_path, test=True, epochs_done=2)  # killed before anybody heard of it
    assert (reported[-1]["epoch"], reported[-1]["test/top1"]) == (3, 77.0)
    kept = json.loads((tmp_path / "confirm" / "0004" / "test.json").read_text())
    assert kept == {"test/top1": 77.0, "test/loss": 1.0}


def test_no_test_set_is_made_up(tmp_path: Path) -> None:
    assert score_on_test_set(Recipe(dataset="digits"), tmp_path) == {}
    assert score_on_test_set(Recipe(dataset="cifar10", val_fraction=0.0), tmp_path) == {}
