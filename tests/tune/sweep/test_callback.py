"""What a sweep records when Ray Tune tells it something: table and folders stay true, whatever the
order of events, and listeners hear of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from optuna.trial import TrialState

from rbnn.data.loading import DataInfo
from rbnn.errors import NonFiniteLoss
from tune.run.failure import disk_trouble
from tune.run.folder import RunFolder
from tune.run.journal import Journal
from tune.run.listener import Listener
from tune.sweep.callback import SweepCallback
from tune.sweep.config import parse_sweep
from tune.sweep.folder import SweepFolder, SweepRecord, trial_directory
from tune.sweep.plan import SweepPlan
from tune.sweep.scheduler import SuccessiveHalving
from tune.sweep.stop import Broken, StopSignal, stopper
from tune.sweep.study import RUN, VALUES, Study
from tune.sweep.table import TrialTable
from tune.sweep.trial import TrialSpec

BASE, SPACE = {"dataset": "digits", "epochs": 3}, {"lr": {"log": [0.01, 1]}}
KEYS = {"name": "look", "base": BASE, "space": SPACE, "scheduler": {"grace_period": 2}}


class Scene:
    """A sweep's folder, its study, and a callback that hears of made-up trials."""

    def __init__(self, directory: Path) -> None:
        file = parse_sweep(KEYS, Path())
        data = DataInfo("digits", "sha256:ab", {"train": 1400})
        self.plan = SweepPlan(file, "look-1", directory, file.baseline, data, 1, 1.0, 0.0)
        SweepFolder(directory).write(SweepRecord(id="ab" * 16, kind="sweep", name="look-1"))
        self.study, self.stop, self.heard = Study(None, "look-1"), StopSignal(), Mock(spec=Listener)
        self.callback = self.another()

    def another(self) -> SweepCallback:
        """The callback of a process that takes the sweep up again."""
        table = TrialTable("look-1", 20, 3)
        return SweepCallback(self.plan, table, self.study, self.stop, self.heard)

    def start(self, number: int = 0, **given: Any) -> Any:
        """A trial that runs, with what the callback reads of one of Ray's."""
        while len(self.study.trials()) <= number:
            self.study.add(TrialState.WAITING, {}, {}, {VALUES: {"lr": 0.2}})
            self.study.take_interrupted()
        config = TrialSpec(number, {"lr": 0.2}, **given).to_config()
        trial = SimpleNamespace(config=config, pickled_error_file=None)
        self.callback.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, *epochs: int, **more: float) -> None:
        for epoch in epochs:
            result = {"epoch": epoch, "val/top1": 10.0 * epoch, "lr": 0.2, "config/lr": 0.2, **more}
            self.callback.on_trial_result(0, [], trial, {**result, "training_iteration": 9})

    def end(self, trial: Any) -> str:
        """End the trial as Ray does, without an error; returns how its run ended."""
        self.callback.on_trial_complete(0, [], trial)
        return self.run(trial.config["number"]).info.state

    def run(self, number: int = 0) -> RunFolder:
        return RunFolder(trial_directory(self.plan.directory, number))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_trial_becomes_a_run_of_the_sweep_with_its_recipe_and_data(scene: Scene) -> None:
    scene.start(3)
    run = scene.run(3)
    info = run.info
    assert (info.kind, info.name, info.parent) == ("trial", "trial 3", "ab" * 16)
    sweep = {"rbnn.sweep": "look-1", "rbnn.sweep_id": "ab" * 16, "rbnn.recipe": "look"}
    assert info.tags == {**sweep, "rbnn.trial": "3"}
    assert run.recipe == scene.plan.recipe.replace(lr=0.2) and info.values == {"lr": 0.2}
    assert info.data == {"name": "digits", "fingerprint": "sha256:ab", "sizes": {"train": 1400}}
    assert scene.study.trials()[3].user_attrs[RUN] == info.id


def test_epochs_are_recorded_once_from_0_without_rays_bookkeeping(scene: Scene) -> None:
    scene.report(scene.start(), 1, 2, 1, 2, 3)
    rows = [{key: row[key] for key in row if key != "time_ms"} for row in scene.run().epochs]
    assert rows == [{"epoch": e - 1, "val/top1": 10.0 * e, "lr": 0.2} for e in (1, 2, 3)]
    told = [(call[0], call.args[0].directory.name) for call in scene.heard.method_calls]
    assert told == [("run_began", "0000"), *[("epoch_ended", "0000")] * 3]


def test_a_trial_that_was_cut_off_goes_on_in_its_run_with_its_epochs(scene: Scene) -> None:
    scene.report(scene.start(), 1, 2)
    first = scene.run().info.id
    scene.report(scene.start(), 1, 2)  # restarted by Ray
    scene.callback = scene.another()
    scene.start(epochs_done=2)
    row = scene.callback.table.rows[0]
    assert (row.epochs, row.top1, row.state) == (2, 20.0, "running")
    assert scene.run().info.id == first and len(scene.run().epochs) == 2


@pytest.mark.parametrize(("num_epochs", "state"), [(3, "complete"), (2, "pruned")])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_trial_that_ray_ends_is_complete_or_pruned(
    num_epochs: int, stopped: bool, state: str, scene: Scene
) -> None:
    trial = scene.start()
    scene.report(trial, *range(1, num_epochs + 1))
    if stopped:
        scene.stop.set()
    assert scene.end(trial) == state
    scene.start(1)
    for _ in range(2):
        scene.callback.end_unfinished()  # of what Ray never said the end
    assert [scene.run(number).info.state for number in (0, 1)] == [state, "killed"]
    best = [point["sweep/best_top1"] for point in RunFolder(scene.plan.directory).points]
    assert best == ([30.0] if state == "complete" else [])


def test_a_trial_that_somebody_else_ended_is_taken_as_it_was_told(scene: Scene) -> None:
    trial = scene.start()
    scene.report(trial, 1)
    scene.study.study.tell(0, state=TrialState.FAIL)
    scene.report(trial, 2)
    Journal(scene.run().directory).append({"epoch": 1})  # as its own process does
    assert stopper(None, scene.study.has_ended)("", {"config": trial.config})
    assert scene.end(trial) == "failed" and len(scene.run().epochs) == 1


def test_the_test_sets_scores_are_kept_apart_from_the_epochs(scene: Scene) -> None:
    scene.report(scene.start(), 1, **{"test/top1": 77.0})
    assert "test/top1" not in scene.run().epochs[0]
    assert (scene.run().directory / "test.json").read_text() == '{"test/top1": 77.0}'


def test_a_failed_trial_carries_its_cause(
    scene: Scene, error_file: Callable[[BaseException], Path]
) -> None:
    cause = NonFiniteLoss("the training loss is not finite at epoch 0, step 1; lower lr or Tmax")
    files = {0: str(error_file(cause)), 1: None}  # the latter's process vanished
    for number, said in enumerate([str(cause), "its process ended"]):
        trial = scene.start(number)
        trial.pickled_error_file = files[number]
        scene.callback.on_trial_error(0, [], trial)
        info, row = scene.run(number).info, scene.callback.table.rows[number]
        assert (info.state, info.cause) == (row.state, row.cause) == ("failed", said)


def test_a_disk_that_takes_no_more_ends_the_sweep_and_not_the_trial(
    scene: Scene, error_file: Callable[[BaseException], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, trial = OSError(errno.ENOSPC, "No space left on device"), scene.start()
    trial.pickled_error_file = str(error_file(full))
    halving = SuccessiveHalving(scene.study, 3, None)
    told = (scene.callback.on_trial_recover, scene.callback.on_trial_error)
    for tell in (*(partial(each, 0, []) for each in told), partial(halving.on_trial_error, None)):
        with pytest.raises(Broken) as broken:
            tell(trial)
        assert disk_trouble(broken.value) == "No space left on device"
    monkeypatch.setattr(os, "fsync", Mock(side_effect=full))
    with pytest.raises(Broken):
        scene.report(trial, 1)
    scene.callback.end_unfinished()  # as far as it can be written
    assert scene.study.trials()[0].state == TrialState.RUNNING
    assert scene.run().info.state == "running"


@pytest.mark.parametrize(
    ("causes", "stops"),
    [
        (["no images at step 3", "no images at step 17", "no images at step 8"], True),
        (["no images", "out of memory", "no images"], False),
        (["no images", "no images", ""], False),
    ],
)
def test_a_sweep_whose_first_trials_all_fail_alike_gives_up(
    causes: list[str], stops: bool, scene: Scene, error_file: Callable[[BaseException], Path]
) -> None:
    for number, cause in enumerate(causes):
        trial = scene.start(number)
        if cause:
            trial.pickled_error_file = str(error_file(RuntimeError(cause)))
            scene.callback.on_trial_error(0, [], trial)
        else:
            scene.report(trial, 1, 2, 3)
            scene.end(trial)
    reason = "the first 3 trials all failed: no images at step 8" if stops else ""
    assert (scene.stop.is_set(), scene.stop.reason) == (stops, reason)
