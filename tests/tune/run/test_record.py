"""Exported runs: one file that holds a run to the last bit, and refuses in one line what it does
not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.run.record import RunRecord, is_record, read_record

RECIPE = Recipe(dataset="digits", epochs=2, lr=0.1 + 0.2, lr_type="step", lr_decay_step=(1,))


RECORD = RunRecord(
    "ab" * 16, "first", "train", "FINISHED", "mine", RECIPE.to_dict(), {"torch": "2"}, {}, []
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
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "run.json"
    RECORD.write(path)
    assert is_record(path) and read_record(path) == RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=reason) as refusal:
        read_record(path)
    assert "\n" not in str(refusal.value)


def test_files_of_another_kind_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("lr: 0.1\n")
    for path in (tmp_path / "recipe.yaml", tmp_path / "missing", tmp_path):
        assert not is_record(path)
    with pytest.raises(RequestError, match="is no exported run"):
        read_record(tmp_path / "recipe.yaml")
