"""Several workers on Ray Train: they agree and count exactly, and a worker that is killed costs
neither the run nor a bit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rbnn import checkpoint
from rbnn.data import open_loaders
from rbnn.diagnostics import TABLE
from rbnn.engine import BEST, LAST, evaluate
from rbnn.errors import DataError, NonFiniteLoss, RunFailed
from rbnn.models import build
from rbnn.recipe import Recipe
from tune.cluster import ray as cluster
from tune.run import workers as trainer
from tune.run.failure import failure_causes, lasting_error
from tune.run.workers import WorkerLog, train_with_workers

# Ray's own code uses what newer versions of it deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# 140 images in batches of 16: nine steps an epoch; the other 1,260 validate.
RECIPE = Recipe(dataset="digits", epochs=2, batch_size=16, batch_size_test=64, val_fraction=0.9)
RECIPE = RECIPE.replace(Tmin=0.3, Tmax=3, gpus="none", threads=1, print_freq=1, checkpoint_steps=2)
DEAD = WorkerHealthCheckFailedError("A worker health check failed.", failure=RayActorError())


def test_only_errors_that_would_come_again_end_a_run_at_once() -> None:
    data, loss = DataError("image 'x' cannot be read"), NonFiniteLoss("not finite")
    other = RuntimeError("connection closed")
    assert lasting_error({1: other, 0: DEAD}) is None
    assert lasting_error({0: RunFailed("a data loading process was killed")}) is None
    assert lasting_error({0: other, 1: loss}) is loss
    assert lasting_error({0: data}) is data


def test_the_worker_that_died_is_named_and_not_those_that_missed_it() -> None:
    assert list(failure_causes({0: RuntimeError("connection closed by peer"), 1: DEAD})) == [1]
    error = RuntimeError("Traceback\n  line\nOSError: disk full")
    assert failure_causes({1: error}) == {1: "failed: OSError: disk full"}


def test_the_log_says_which_worker_died_and_where_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    epochs, steps = list[Any](), list[Any]()
    recipe = RECIPE.replace(train_workers=2)
    log = WorkerLog(recipe, epochs.append, lambda *where: steps.append(where))
    for rank in (0, 1):
        log.hear("worker", rank=rank, pid=10 + rank, where=None)
    log.hear("epoch", metrics={"epoch": 0})
    log.hear("progress", where=(1, 5, 9))
    assert capsys.readouterr().out == "" and epochs == [{"epoch": 0}] and steps == [(1, 5, 9)]
    log.hear("failure", causes={1: "died"})
    log.hear("worker", rank=1, pid=13, where=None)
    log.hear("worker", rank=0, pid=12, where=(1, 4))
    assert capsys.readouterr().out.splitlines() == [
        "worker 2 of 2 (process 11) died",
        "2 workers go on from the last checkpoint: epoch 2 after step 4",
    ]


@pytest.fixture(scope="module")
def four_cores() -> Iterator[None]:
    """A local Ray that believes in four cores."""
    patch = pytest.MonkeyPatch()
    known = ray.init
    patch.setattr(ray, "init", lambda **settings: known(**settings, num_cpus=4))
    with cluster.connected():
        yield
    patch.undo()


def plain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def trained(recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, epoch by epoch."""
    heard: dict[int, dict[str, Any]] = {}

    def report(metrics: dict[str, Any]) -> None:
        heard[metrics["epoch"]] = plain(metrics)

    train_with_workers(recipe, folder, report)
    return [heard.pop(epoch) for epoch in range(recipe.epochs)]


def weights(path: Path) -> str:
    state = checkpoint.load(path)
    values = [state.state_dict, state.optimizer, plain(state.metrics)]
    return checkpoint.digest_of([*values, state.epoch, state.step, state.best])


@pytest.mark.slow
@pytest.mark.usefixtures("four_cores")
def test_four_workers_agree_and_count_every_validation_image_once(tmp_path: Path) -> None:
    """That they end each epoch with the same weights and rotations, the loop itself checks."""
    recipe = RECIPE.replace(train_workers=4, epochs=1)
    (metrics,) = trained(recipe, tmp_path)
    model = build(recipe.model, recipe.dataset)
    state = checkpoint.load(tmp_path / BEST)
    checkpoint.load_weights(model, state, tmp_path)
    assert checkpoint.state_digest(model) == metrics["digest"]
    alone = evaluate(model, open_loaders(recipe, torch.device("cpu")).val)
    for name, value in alone.items():
        assert metrics[name] == (pytest.approx(value) if name == "val/loss" else value)


def plain_ranks(recipe: Recipe, folder: Path) -> None:
    """The same run in two plain processes, without Ray."""
    folder.mkdir()
    program = str(Path(__file__).with_name("plain_rank.py"))
    command = [sys.executable, program, str(folder), json.dumps(recipe.to_dict())]
    processes = [subprocess.Popen([*command, rank]) for rank in "01"]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("four_cores")
def test_a_worker_killed_in_mid_epoch_costs_no_bit_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.replace(train_workers=2)
    plain_ranks(recipe, tmp_path / "whole")
    victims: list[int] = []

    class Killing(WorkerLog):
        def hear(self, kind: str, **event: Any) -> None:
            super().hear(kind, **event)
            if kind == "progress" and event["where"][:2] == (1, 3) and not victims:
                victims.append(self.pids[1])
                os.kill(victims[0], signal.SIGKILL)

    monkeypatch.setattr(trainer, "WorkerLog", Killing)
    metrics = trained(recipe, tmp_path / "parts")
    said = capsys.readouterr().out
    assert f"worker 2 of 2 (process {victims[0]}) died: its process was killed" in said
    assert said.count(" died: ") == 1
    assert re.search(r"2 workers go on from the last checkpoint: epoch 2 after step [2468]\n", said)
    for name in (LAST, BEST):
        assert weights(tmp_path / "parts" / name) == weights(tmp_path / "whole" / name)
    assert metrics[-1] == plain(checkpoint.load(tmp_path / "whole" / LAST).metrics)
    tables = [(tmp_path / name / TABLE).read_text() for name in ("whole", "parts")]
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.usefixtures("four_cores")
def test_a_loss_that_is_not_finite_is_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = r"^the training loss is not finite at epoch 0, step \d"
    with pytest.raises(NonFiniteLoss, match=reason):
        trained(RECIPE.replace(train_workers=1, lr=1e30), tmp_path)
    assert "go on" not in capsys.readouterr().out
