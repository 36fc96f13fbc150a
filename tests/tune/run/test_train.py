"""A recorded training run: resumed in its own folder it is one run, with every epoch once; the
training itself is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rbnn import checkpoint as ckpt
from rbnn.data.loading import DataInfo
from rbnn.engine import BEST, LAST
from rbnn.errors import CheckpointError
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.session import resolve
from tune.run import train as runs
from tune.run.train import RUN_FILE, Recorded, train_recorded
from tune.tracking.mirror import Tracker

pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning")
RECIPE = Recipe(dataset="digits", epochs=4, gpus="none", compile="off", threads=1)


def checkpoint_of(recipe: Recipe, epoch: int, metrics: dict[str, Any]) -> ckpt.Checkpoint:
    """What `recipe` leaves after so many epochs, on the data of `MadeUp`."""
    weights, sgd = {"w": torch.zeros(1)}, {"param_groups": []}
    return ckpt.Checkpoint(
        weights, recipe.to_dict(), epoch=epoch, optimizer=sgd, metrics=metrics, data="sha256:0"
    )


class MadeUp:
    """A session whose epoch e scores 10 e; it is interrupted after `until` epochs."""

    until = 4

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe, self.directory = recipe, directory
        self.loaders = type(
            "Loaders", (), {"info": DataInfo("digits", "sha256:0", {"train": 8, "validation": 4})}
        )()

    def train(self, report: Callable[[dict[str, Any], Path | None], None], progress: Any) -> None:
        done = ckpt.load(find_checkpoint(self.recipe.resume)).epoch if self.recipe.resume else 0
        for epoch in range(max(done - 1, 0), self.until):
            metrics = {
                "epoch": epoch,
                "train/loss": 1.0,
                "train/top1": 1.0,
                "val/top1": 10.0 * epoch,
                "lr": 0.1,
                "t": 1.0,
            }
            metrics |= {"time/epoch_s": 1.0, "digest": f"{epoch:016x}"}
            ckpt.save(self.directory / LAST, checkpoint_of(self.recipe, epoch + 1, metrics))
            report(metrics, None)
        if self.until < self.recipe.epochs:
            raise KeyboardInterrupt


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(runs.Session, "open", staticmethod(MadeUp))
    monkeypatch.setattr(MadeUp, "until", 2)
    return Tracker.open(uri=f"sqlite:///{tmp_path}/mlflow.db")


def begun(tmp_path: Path, tracker: Tracker) -> Recipe:
    """The recipe of a run that was interrupted after two epochs, resumed in its own folder."""
    recipe = RECIPE.replace(results_dir=str(tmp_path), save="run")
    with pytest.raises(KeyboardInterrupt):
        train_recorded(recipe, tracker)
    MadeUp.until = 4
    return recipe.replace(resume=str(tmp_path / "run"))


def history(tracker: Tracker, run: Recorded) -> list[tuple[int, float]]:
    return [
        (point.step, point.value)
        for point in tracker.client.get_metric_history(run.run_id, "val/top1")
    ]


def test_a_run_resumed_in_its_folder_goes_on_in_its_own_mlflow_run(
    tmp_path: Path, tracker: Tracker
) -> None:
    resumed = begun(tmp_path, tracker)
    first = (tmp_path / "run" / RUN_FILE).read_text()
    assert tracker.find_run(first).info.status == "KILLED"
    done = train_recorded(resumed, tracker)
    assert done.run_id == first and [each.epoch for each in done.epochs] == [0, 1, 2, 3]
    assert tracker.find_run(first).info.status == "FINISHED"
    assert history(tracker, done) == [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)]
    assert sorted(tracker.digests_of(first)) == [0, 1, 2, 3]
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 1


def test_an_epoch_that_the_dead_process_had_not_sent_comes_from_the_journal(
    tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as lost:
        lost.setattr(Tracker, "log_epoch", lambda *arguments: None)
        resumed = begun(tmp_path, tracker)
    assert [step for step, _ in history(tracker, train_recorded(resumed, tracker))] == [0, 1, 2, 3]


def test_a_run_resumed_into_another_folder_or_missing_in_the_store_is_a_new_one(
    tmp_path: Path, tracker: Tracker
) -> None:
    resumed = begun(tmp_path, tracker)
    first = (tmp_path / "run" / RUN_FILE).read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LAST).write_bytes((tmp_path / "run" / LAST).read_bytes())
    elsewhere = train_recorded(
        resumed.replace(save="third", resume=str(tmp_path / "other")), tracker
    )
    assert elsewhere.run_id != first and tracker.find_run(first).info.status == "KILLED"
    tracker.client.delete_run(first)
    assert train_recorded(resumed, tracker).run_id not in (first, elsewhere.run_id)


@pytest.mark.parametrize(
    ("other", "data", "refusal"),
    [
        ({"lr": 0.3}, "sha256:0", "was written with lr 0.3, this recipe has 0.1"),
        ({}, "sha256:1", "trained on other data"),
    ],
)
def test_workers_that_cannot_go_on_from_best_leave_last_as_it_was(
    other: dict[str, Any],
    data: str,
    refusal: str,
    tmp_path: Path,
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune.run.workers.train_with_workers", lambda *arguments: None)
    recipe, folder = (
        resolve(RECIPE.replace(results_dir=str(tmp_path), save="run", train_workers=2)),
        tmp_path / "run",
    )
    ckpt.save(folder / LAST, checkpoint_of(recipe, 3, {"epoch": 2}))
    ckpt.save(
        folder / BEST, replace(checkpoint_of(recipe.replace(**other), 2, {"epoch": 1}), data=data)
    )
    last = (folder / LAST).read_bytes()
    resumed = recipe.replace(resume=str(folder / BEST))
    with pytest.raises(CheckpointError, match=refusal):
        train_recorded(resumed, tracker)
    assert (folder / LAST).read_bytes() == last
    assert tracker.client.search_runs([tracker.experiment_id]) == []
    ckpt.save(folder / BEST, checkpoint_of(recipe, 2, {"epoch": 1}))
    train_recorded(resumed, tracker)
    assert ckpt.load(folder / LAST).epoch == 2
