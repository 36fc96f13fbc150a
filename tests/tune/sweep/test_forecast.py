"""The forecast of a sweep: epochs by the rungs, recorded epoch times before measured ones, disk,
and the first trials.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rbnn import checkpoint as ckpt
from rbnn.models import build
from rbnn.recipe import Recipe
from tune.report.console import dry_run
from tune.sweep.config import parse_sweep
from tune.sweep.forecast import checkpoint_bytes, expected_epochs, first_points, forecast
from tune.sweep.plan import SweepPlan, plan

BASE = {"dataset": "digits", "epochs": 12, "batch_size": 64, "warm_up": True, "threads": 1}
KEYS = {
    "name": "look",
    "base": {**BASE, "gpus": "none"},
    "space": {"lr": {"log": [0.05, 0.2]}, "weight_decay": {"fixed": 0.0}},
    "scheduler": {"name": "asha", "grace_period": 6, "reduction_factor": 2},
    **{"trials": 8, "concurrent": 2, "confirm_top": 1, "confirm_seeds": 2},
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    folder = tmp_path_factory.mktemp("forecast")
    return plan(parse_sweep(KEYS, folder), name="look", results_dir=str(folder))


RECORDED = (3.0, "of run 01234567, 3 epochs recorded")


def test_expected_epochs_follow_the_rungs() -> None:
    assert expected_epochs([60, 180], 3, 400) == pytest.approx(60 + 120 / 3 + 220 / 9)
    assert expected_epochs([], 3, 12) == 12


def test_the_forecast_counts_epochs_and_disk(planned: SweepPlan) -> None:
    found = forecast(planned, RECORDED)
    assert (found.most, found.expected, found.confirming) == (96, 8 * (6 + 6 / 2), 48)
    assert found.epoch_s == 3.0
    assert found.disk == 2 * 2 * found.checkpoint * (8 + 4)


@pytest.mark.parametrize(
    ("sampler", "trials", "whole", "shorter"),
    [("gp", 20, 14, 3), ("gp", 60, 54, 3), ("gp", 8, 5, 3), ("random", 60, 7, 27 / 13)],
)
def test_of_short_schedules_the_baseline_is_whole_and_the_last(
    sampler: str, trials: int, whole: int, shorter: float, tmp_path: Path
) -> None:
    short = {"scheduler": "short", "sampler": sampler, "trials": trials}
    changes = {**short, "base": {**KEYS["base"], "epochs": 9}}
    sweep = parse_sweep({**KEYS, **changes}, tmp_path)
    found = forecast(plan(sweep, name="short", results_dir=str(tmp_path)), RECORDED)
    assert found.expected == pytest.approx((trials - whole) * shorter + whole * 9)


def test_without_a_recorded_run_a_few_steps_are_measured(planned: SweepPlan) -> None:
    found = forecast(planned, None)
    assert found.epoch_s > 0 and found.source.startswith("measured now")


def test_a_checkpoint_is_as_large_as_said(tmp_path: Path) -> None:
    recipe = Recipe(dataset="digits")
    model = build(recipe.model, recipe.dataset)
    buffers = [{"momentum_buffer": each.detach().clone()} for each in model.parameters()]
    momentum = {"state": dict(enumerate(buffers))}
    ckpt.save(tmp_path / "x.ckpt", ckpt.Checkpoint(model.state_dict(), optimizer=momentum))
    assert checkpoint_bytes(recipe) == pytest.approx((tmp_path / "x.ckpt").stat().st_size, rel=0.1)


def test_the_first_trials_are_those_that_the_sweep_will_run(planned: SweepPlan) -> None:
    points = first_points(planned)
    assert points[0] == {"lr": 0.1, "weight_decay": 0.0} and points == first_points(planned)
    assert len(points) == 4


def test_a_dry_run_says_it_all_and_writes_nothing(planned: SweepPlan) -> None:
    text = "\n".join(dry_run(planned, RECORDED, {}))
    for part in (
        "lr: log, 0.05 to 0.2",
        "weight_decay: fixed, 0.0",
        "0: lr 0.1  weight_decay 0",
        "at once: 2 trials of 1 core(s), 0 GPU(s)",
        "rungs: epoch 6; one in 2 goes on",
        "epochs: 144 at most, about 120 expected (72 to search, 48 to confirm)",
        "time: about 3 minutes, at most 4 minutes",
    ):
        assert part in text
    assert not planned.directory.exists()
