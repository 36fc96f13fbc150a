"""Exported runs: one file that holds a run to the last bit, and refuses in one line what it does
not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.run.record import Epoch, is_record, read_record, record_of
from tune.tracking.mirror import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

RECIPE = Recipe(dataset="digits", epochs=2, lr=0.1 + 0.2, lr_type="step", lr_decay_step=(1,))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracker, str]:
    tracker = Tracker.open(uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    run_id = tracker.start_run("train", "first", recipe=RECIPE, tags={"rbnn.recipe": "mine"})
    tracker.log_data(run_id, "digits", "sha256:" + "ab" * 32, {"train": 1400, "validation": 397})
    tracker.log_epoch(run_id, {"val/top1": 1 / 3, "train/loss": math.inf, "digest": "0a"}, 0)
    tracker.log_epoch(run_id, {"val/top1": 2 / 3, "train/loss": math.nan, "digest": "0b"}, 1)
    tracker.finish(run_id, "FINISHED")
    return tracker, run_id


def test_a_run_survives_its_file_to_the_last_bit(
    recorded: tuple[Tracker, str], tmp_path: Path
) -> None:
    tracker, run_id = recorded
    record = record_of(tracker, run_id[:10])
    record.write(tmp_path / "run.json")
    again = read_record(tmp_path / "run.json")
    assert is_record(tmp_path / "run.json")
    assert (again.run_id, again.to_recipe(), again.recipe_name) == (run_id, RECIPE, "mine")
    assert again.data == {
        "name": "digits",
        "fingerprint": "sha256:" + "ab" * 32,
        "sizes": {"train": 1400, "validation": 397},
    }
    assert again.environment == record.environment and again.environment["torch"]
    assert again.epochs[0] == Epoch(
        0, {"digest": "0a"}, {"val/top1": 1 / 3, "train/loss": math.inf}
    )
    assert again.epochs[1].metrics["val/top1"] == 2 / 3 and math.isnan(
        again.epochs[1].metrics["train/loss"]
    )
    content = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert (
        content["seeds"] == {"seed": 1234}
        and content["code"]["commit"] == again.environment["git_commit"]
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "has format version 2, this program reads 1"),
        ({"format": "other"}, "is no exported run"),
        ({"epochs": [{"epoch": 0}]}, "is damaged"),
        ({"recipe": {"lr": -1}}, "holds a recipe that this program refuses: lr is -1"),
        ({"recipe": {"no": 1}}, "is damaged"),
    ],
)
def test_a_file_that_does_not_hold_a_run_is_refused_in_one_line(
    recorded: tuple[Tracker, str], tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    tracker, run_id = recorded
    path = tmp_path / "run.json"
    record_of(tracker, run_id).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=reason) as refusal:
        read_record(path)
    assert "\n" not in str(refusal.value)


def test_files_of_another_kind_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("lr: 0.1\n")
    assert (
        not is_record(tmp_path / "recipe.yaml")
        and not is_record(tmp_path / "missing")
        and not is_record(tmp_path)
    )
    with pytest.raises(RequestError, match="is no exported run"):
        read_record(tmp_path / "recipe.yaml")
