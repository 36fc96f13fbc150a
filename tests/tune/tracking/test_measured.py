"""Which recorded runs count as a measurement of a documented recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbnn.recipe import load_recipe
from tests.tune.made_runs import recorded_run
from tune.cli.__main__ import main
from tune.tracking.measured import measured_accuracies, recorded_epoch_s
from tune.tracking.mirror import Mirror
from tune.tracking.reader import RunReader

NAME, OTHER = "cifar10_resnet20_1w1a", "cifar10_vgg_small_1w1a"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def mirror(place: Path, new_store: Callable[[Path], str]) -> Mirror:
    """Of a store in it."""
    return Mirror.open(new_store(place))


def record(mirror: Mirror, top1: list[float], state: str = "complete", **changes: Any) -> str:
    epochs = [{"val/top1": value, "val/top5": value + 10} for value in top1]
    recipe, tags = load_recipe(NAME, **changes), {"rbnn.recipe": NAME}
    return recorded_run(mirror, Path.cwd(), recipe, epochs, state, tags=tags)


def test_the_best_epoch_of_the_best_unchanged_finished_run_counts(
    mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    best = record(mirror, [50.0, 86.25, 86.0], seed=7, threads=2, data_path="/elsewhere")
    record(mirror, [86.1], use_dali=True, compile="on", train_workers=2)
    for change in ({"epochs": 400}, {"val_fraction": 0.1}, {"a32": True}, {"state": "killed"}):
        record(mirror, [99.0], **change)
    assert measured_accuracies([NAME, OTHER]) == {
        NAME: {"top1": 86.25, "top5": 96.25, "run_id": best, "num_runs": 2}
    }
    assert main(["recipes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    found = (rows[NAME]["top1"], rows[NAME]["measured"]["top1"], rows[OTHER]["measured"])
    assert found == (86.5, 86.25, None)
    assert main(["recipes"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines[NAME].endswith(f"86.25 / 96.25 (run {best[:8]}, best of 2)")
    assert lines[OTHER].endswith("91.3                      -")


def test_without_a_run_of_a_recipe_mlflow_is_not_asked(
    place: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured_accuracies([NAME]) == {} and not (place / "mlflow.db").exists()
    record(Mirror.open(new_store(place)), [86.0])
    monkeypatch.setattr(RunReader, "open", lambda *given: pytest.fail("the store was opened"))
    assert measured_accuracies([OTHER]) == {}


def test_a_store_that_does_not_answer_leaves_the_documented_figures(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["recipes"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("rbnn: no figures measured here: MLflow store http://127.0.0.1:9")
    assert said.err.count("\n") == 1 and "86.5" in said.out


def test_the_epoch_time_is_that_of_the_latest_run_of_the_same_kind(mirror: Mirror) -> None:
    recipe = load_recipe(NAME)
    for each, seconds in ((recipe, 2.0), (recipe.replace(batch_size=32), 7.0)):
        epochs = [{"time/epoch_s": seconds + epoch} for epoch in range(3)]
        recorded_run(mirror, Path.cwd(), each, epochs)
    found = recorded_epoch_s(recipe, mirror.reader)
    assert found is not None and found[0] == 3.0 and "3 epochs recorded" in found[1]
    assert recorded_epoch_s(recipe.replace(batch_size=16), mirror.reader) is None
