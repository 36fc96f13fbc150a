"""A recorded training run: resumed in its own folder it is one run, with every epoch once; the
training itself is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from tune.run.folder import RunFolder
from tune.run.listener import Listener
from tune.run.train import train_recorded

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
        info = DataInfo("digits", "sha256:0", {"train": 8, "validation": 4})
        self.loaders = SimpleNamespace(info=info)

    def train(self, report: Callable[[dict[str, Any], Path | None], None], progress: Any) -> None:
        done = ckpt.load(find_checkpoint(self.recipe.resume)).epoch if self.recipe.resume else 0
        for epoch in range(max(done - 1, 0), self.until):
            metrics = {"train/loss": 1.0, "train/top1": 1.0, "val/top1": 10.0 * epoch, "t": 1.0}
            metrics |= {"epoch": epoch, "lr": 0.1, "time/epoch_s": 1.0, "time/images_per_s": 1.0}
            metrics["digest"] = f"{epoch:016x}"
            ckpt.save(self.directory / LAST, checkpoint_of(self.recipe, epoch + 1, metrics))
            report(metrics, None)
        if self.until < self.recipe.epochs:
            raise KeyboardInterrupt


class Heard(Listener):
    """Notes the epochs that it is told of, and how runs ended."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.ends: list[str] = []

    def epoch_ended(self, run: RunFolder, metrics: dict[str, Any]) -> None:
        self.epochs.append(metrics["epoch"])

    def run_ended(self, run: RunFolder) -> None:
        self.ends.append(run.info.state)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(runs.Session, "open", staticmethod(MadeUp))
    monkeypatch.setattr(MadeUp, "until", 2)
    return Heard()


def begun(tmp_path: Path, heard: Heard) -> Recipe:
    """The recipe of a run that was interrupted after two epochs, resumed in its own folder."""
    recipe = RECIPE.replace(results_dir=str(tmp_path), save="run")
    with pytest.raises(KeyboardInterrupt):
        train_recorded(resolve(recipe), heard)
    MadeUp.until = 4
    return recipe.replace(resume=str(tmp_path / "run"))


def test_a_run_resumed_in_its_folder_stays_the_run_it_was(tmp_path: Path, heard: Heard) -> None:
    resumed, first = begun(tmp_path, heard), RunFolder(tmp_path / "run").info
    assert first.state == "killed"
    done = train_recorded(resumed, heard)
    assert (done.run.info.id, done.run.info.state) == (first.id, "complete")
    tops = [(each.epoch, each.metrics["val/top1"]) for each in done.epochs]
    assert tops == [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)] and done.best_top1 == 30.0
    assert all(each.digests for each in done.epochs)
    assert heard.ends == ["killed", "complete"] and heard.epochs == [0, 1, 1, 2, 3]


def test_an_epoch_that_the_dead_process_had_not_noted_comes_from_its_checkpoint(
    tmp_path: Path, heard: Heard
) -> None:
    resumed = begun(tmp_path, heard)
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    MadeUp.until = 2  # nothing more is trained
    with pytest.raises(KeyboardInterrupt):
        train_recorded(resumed, heard)
    assert [row["epoch"] for row in RunFolder(tmp_path / "run").epochs] == [0, 1]


def test_a_run_resumed_into_another_folder_is_a_new_one(tmp_path: Path, heard: Heard) -> None:
    resumed = begun(tmp_path, heard)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LAST).write_bytes((tmp_path / "run" / LAST).read_bytes())
    other = resumed.replace(save=str(tmp_path / "third"), resume=str(tmp_path / "other"))
    elsewhere, first = train_recorded(other, heard), RunFolder(tmp_path / "run").info
    assert elsewhere.run.info.id != first.id and first.state == "killed"


def test_workers_that_cannot_go_on_from_best_leave_last_as_it_was(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = DataInfo("digits", "sha256:0", {"train": 8, "validation": 4})
    monkeypatch.setattr(runs, "describe_data", lambda recipe: info)
    monkeypatch.setattr("tune.run.workers.train_with_workers", lambda *arguments: None)
    recipe = resolve(RECIPE.replace(results_dir=str(tmp_path), save="run", train_workers=2))
    folder = tmp_path / "run"
    ckpt.save(folder / LAST, checkpoint_of(recipe, 3, {"epoch": 2}))
    last, best = (folder / LAST).read_bytes(), checkpoint_of(recipe, 2, {"epoch": 1})
    resumed = recipe.replace(resume=str(folder / BEST))
    changed = {**best.recipe, "lr": 0.3}
    for wrong, refusal in (
        (replace(best, recipe=changed), "was written with lr 0.3, this recipe has 0.1"),
        (replace(best, data="sha256:1"), "trained on other data"),
    ):
        ckpt.save(folder / BEST, wrong)
        with pytest.raises(CheckpointError, match=refusal):
            train_recorded(resumed, heard)
        assert (folder / LAST).read_bytes() == last and not RunFolder(folder).exists
    ckpt.save(folder / BEST, best)
    train_recorded(resumed, heard)
    assert ckpt.load(folder / LAST).epoch == 2
