"""When a sweep will have ended, as `rbnn status` says while it runs elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from tune.board import Board, Row
from tune.folder import SWEEP_FILE, Record, SweepFolder
from tune.status import Standing
from tune.sweepfile import parse_sweep

FILE = parse_sweep({"name": "look", "base": {"dataset": "digits", "epochs": 10}, "space": {"lr": {"log": [0.01, 1]}}}, Path())


@pytest.mark.parametrize(
    ("done", "confirmed", "to_confirm", "budget_s", "seconds"),
    [
        (2, 0, 0, None, 2 * 10 + 8 * 10),  # the search, then 2 seeds of the best three settings and of the documented one
        (4, 0, 8, None, 8 * 10),
        (4, 20, 8, None, 60),
        (2, 0, 0, 25.0, 5 + 8 * 10),
    ],
)
def test_the_finish_time_counts_the_confirmation(
    done: int, confirmed: int, to_confirm: int, budget_s: float | None, seconds: float, tmp_path: Path
) -> None:
    (tmp_path / SWEEP_FILE).write_text(yaml.safe_dump(FILE.to_dict()))
    rows = {number: Row(number, {"lr": 0.1}, state="complete", epochs=10, top1=50.0) for number in range(done)}
    record = Record("look", trials=4, confirm_seeds=2, budget_s=budget_s)
    standing = Standing(SweepFolder(tmp_path), record, "running", Board("look", 4, 10, rows), used_s=10.0 * done + confirmed)
    standing.num_to_confirm, standing.epochs_confirmed = to_confirm, confirmed
    assert standing.finish is not None and standing.finish - time.time() == pytest.approx(seconds, abs=1)
    standing.state = "stopped"
    assert standing.finish is None
