"""What a sweep records when Ray Tune tells it something: board and store stay true, whatever the
order of events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbnn.data.loading import DataInfo
from rbnn.engine import BEST, LAST
from rbnn.errors import NonFiniteLoss
from tune.run.journal import Journal
from tune.sweep.callback import RecordTrials, epoch_metrics
from tune.sweep.config import parse_sweep
from tune.sweep.plan import Plan
from tune.sweep.stop import Stop
from tune.sweep.table import Board
from tune.sweep.trial import trial_directory, trial_recipe

FILE = parse_sweep(
    {
        "name": "look",
        "base": {"dataset": "digits", "epochs": 3},
        "space": {"lr": {"log": [0.01, 1]}},
        "scheduler": {"grace_period": 2},
    },
    Path(),
)


class FakeTracker:
    """Notes the calls that the recorder makes, by run id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.points: list[tuple[str, dict[str, float], int]] = []

    def start_run(self, kind: str, name: str, **given: Any) -> str:
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {
            "kind": kind,
            "name": name,
            **given,
            "epochs": [],
            "files": [],
            "end": None,
        }
        return run_id

    def resume_run(self, run_id: str) -> None:
        self.runs[run_id]["end"] = None

    @property
    def client(self) -> FakeTracker:
        return self

    def get_run(self, run_id: str) -> Any:
        """As MLflow's client: a run whose data set is recorded."""
        return SimpleNamespace(data=SimpleNamespace(tags={"rbnn.data_fingerprint": "sha256:ab"}))

    def log_data(self, run_id: str, name: str, fingerprint: str, sizes: dict[str, int]) -> None:
        self.runs[run_id]["data"] = (name, fingerprint, sizes)

    def log_epoch(self, run_id: str, metrics: dict[str, Any], epoch: int) -> None:
        self.runs[run_id]["epochs"].append((epoch, metrics))

    def log_points(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        self.points.append((run_id, metrics, step))

    def log_checkpoints(self, run_id: str, files: list[Path]) -> None:
        self.runs[run_id]["files"] += [file.name for file in files]

    def log_artifact(self, run_id: str, file: Path, folder: str = "") -> None:
        self.runs[run_id]["files"].append(file.name)

    def finish(self, run_id: str, status: str, *, pruned: bool = False, cause: str = "") -> None:
        assert self.runs[run_id]["end"] is None, "a run ends once"
        self.runs[run_id]["end"] = (status, pruned, cause)


@dataclasses.dataclass
class FakeTrial:
    """What the recorder reads of a trial of Ray's."""

    config: dict[str, Any]
    pickled_error_file: str | None = None


@dataclasses.dataclass
class Scene:
    recorder: RecordTrials
    tracker: FakeTracker
    stop: Stop
    plan: Plan
    changes: list[tuple[int, str, int]]

    def start(self, number: int = 0) -> FakeTrial:
        trial = FakeTrial({"number": number, "overrides": {"lr": 0.2}})
        self.recorder.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: FakeTrial, epoch: int, top1: float = 50.0) -> None:
        result = {
            "epoch": epoch,
            "val/top1": top1,
            "lr": 0.2,
            "config/lr": 0.2,
            "training_iteration": 9,
        }
        self.recorder.on_trial_result(0, [], trial, result)

    def end(self, trial: FakeTrial) -> tuple[str, bool, str]:
        """End the trial as Ray does, without an error; returns how its run ended."""
        self.recorder.on_trial_complete(0, [], trial)
        found: tuple[str, bool, str] = self.tracker.runs[f"run{trial.config['number']}"]["end"]
        return found

    def another(self) -> RecordTrials:
        """The recorder of a process that takes the sweep up again."""
        before = self.recorder
        runs = {number: row.run_id for number, row in before.board.rows.items()}
        board = Board("look-1", 20, 3)
        return RecordTrials(
            self.plan, board, before.tracker, "parent", self.stop, before.changed, runs
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    data = DataInfo("digits", "sha256:ab", {"train": 1400})
    plan = Plan(FILE, "look-1", tmp_path, FILE.baseline, data, concurrent=1, cpus=1.0, gpus=0.0)
    tracker, stop, changes = FakeTracker(), Stop(), []  # type: ignore[var-annotated]
    board = Board("look-1", 20, 3)
    recorder = RecordTrials(
        plan,
        board,
        tracker,
        "parent",
        stop,
        lambda row: changes.append((row.number, row.state, row.epochs)),  # type: ignore[arg-type]
    )
    return Scene(recorder, tracker, stop, plan, changes)


def test_a_trial_becomes_a_child_run_with_its_recipe_and_data(scene: Scene) -> None:
    scene.start(3)
    run = scene.tracker.runs["run0"]
    assert (run["kind"], run["name"], run["parent"]) == ("trial", "trial 3 of look-1", "parent")
    assert run["tags"] == {"rbnn.sweep": "look-1", "rbnn.trial": "3", "rbnn.recipe": "look"}
    assert run["recipe"] == trial_recipe(FILE.baseline.to_dict(), {"lr": 0.2})
    assert run["data"] == ("digits", "sha256:ab", {"train": 1400})


def test_epochs_are_recorded_once_from_0_without_rays_bookkeeping(scene: Scene) -> None:
    trial = scene.start()
    for epoch in (1, 2, 1, 2, 3):
        scene.report(trial, epoch, 10.0 * epoch)
    assert scene.tracker.runs["run0"]["epochs"] == [
        (e - 1, {"val/top1": 10.0 * e, "lr": 0.2}) for e in (1, 2, 3)
    ]
    assert scene.changes == [(0, "running", epochs) for epochs in (0, 1, 2, 3)]


def test_a_restarted_trial_keeps_its_run(scene: Scene) -> None:
    scene.report(scene.start(), 1)
    again = scene.start()
    scene.report(again, 1)
    scene.report(again, 2)
    assert list(scene.tracker.runs) == ["run0"]
    assert [epoch for epoch, _ in scene.tracker.runs["run0"]["epochs"]] == [0, 1]


@pytest.mark.parametrize(
    ("num_epochs", "stopped", "end"),
    [
        (3, False, ("FINISHED", False, "")),
        (3, True, ("FINISHED", False, "")),
        (2, False, ("KILLED", True, "")),
        (2, True, ("KILLED", True, "")),
    ],
)
def test_a_trial_that_ray_ends_is_complete_or_pruned(
    num_epochs: int, stopped: bool, end: tuple[str, bool, str], scene: Scene
) -> None:
    trial = scene.start()
    for epoch in range(1, num_epochs + 1):
        scene.report(trial, epoch)
    if stopped:
        scene.stop.set()
    assert scene.end(trial) == end


def test_the_checkpoints_that_are_there_are_kept(scene: Scene) -> None:
    folder = trial_directory(scene.plan.directory, 0)
    folder.mkdir(parents=True)
    (folder / LAST).write_bytes(b"weights")
    scene.end(scene.start())
    assert scene.tracker.runs["run0"]["files"] == [LAST]
    (trial_directory(scene.plan.directory, 1)).mkdir()
    for name in (LAST, BEST):
        (trial_directory(scene.plan.directory, 1) / name).write_bytes(b"weights")
    scene.end(scene.start(1))
    assert scene.tracker.runs["run1"]["files"] == [LAST, BEST]


def test_a_failed_trial_carries_its_cause(
    scene: Scene, error_file: Callable[[BaseException], Path]
) -> None:
    cause = NonFiniteLoss(
        "the training loss is not finite at epoch 0, step 1 (lr 9, t 1, k 1); lower lr or Tmax"
    )
    trial = scene.start()
    trial.pickled_error_file = str(error_file(cause))
    scene.recorder.on_trial_error(0, [], trial)
    assert scene.tracker.runs["run0"]["end"] == ("FAILED", False, str(cause))
    assert scene.recorder.board.rows[0].cause == str(cause)


def test_a_trial_that_was_cut_off_goes_on_in_its_run_filled_from_its_journal(scene: Scene) -> None:
    scene.report(scene.start(), 1, 10.0)
    journal = Journal(trial_directory(scene.plan.directory, 0))
    for epoch in (0, 1):
        journal.append({"epoch": epoch, "val/top1": 10.0 * (epoch + 1)})
    recorder = scene.another()
    recorder.on_trial_start(0, [], FakeTrial({"number": 0, "overrides": {"lr": 0.2}, "epochs": 2}))
    assert list(scene.tracker.runs) == ["run0"]
    assert [epoch for epoch, _ in scene.tracker.runs["run0"]["epochs"]] == [
        0,
        0,
        1,
    ]  # the tracker drops what it holds
    row = recorder.board.rows[0]
    assert (row.epochs, row.top1, row.state) == (2, 20.0, "running")


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
            scene.recorder.on_trial_error(0, [], trial)
        else:
            for epoch in (1, 2, 3):
                scene.report(trial, epoch)
            scene.end(trial)
    assert scene.stop.is_set() is stops
    assert scene.stop.reason == (
        "the first 3 trials all failed: no images at step 8" if stops else ""
    )


def test_a_trial_whose_process_vanished_is_failed_too(scene: Scene) -> None:
    scene.recorder.on_trial_error(0, [], scene.start())
    assert scene.tracker.runs["run0"]["end"] == ("FAILED", False, "its process ended")


def test_what_ray_never_said_the_end_of_is_killed(scene: Scene) -> None:
    scene.end(scene.start(0))
    scene.start(1)
    scene.recorder.end_unfinished()
    scene.recorder.end_unfinished()
    assert scene.tracker.runs["run1"]["end"] == ("KILLED", False, "")


def test_only_the_loops_metrics_are_recorded() -> None:
    result = {
        "train/loss": 1.0,
        "config/lr": 2,
        "lr": 0.1,
        "t": 1,
        "k": 1,
        "digest": "ab",
        "epoch": 3,
        "pid": 4,
        "done": True,
    }
    assert set(epoch_metrics(result)) == {"train/loss", "lr", "t", "k", "digest"}
