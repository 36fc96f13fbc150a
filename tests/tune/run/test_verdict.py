"""Verdicts: what counts as the same bits, what another machine excuses, and when a documented
figure applies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rbnn.recipe import Recipe, load_recipe
from tune.run.diff import compare, lines_of
from tune.run.record import Epoch, RunRecord
from tune.run.verdict import environment_differences, first_difference, judge_seeds, verify

ENVIRONMENT = {"cpu": "A", "torch": "2.15.0", "git_commit": "aa", "command": "rbnn train"}
EPOCHS = [
    Epoch(e, {"digest": f"{e:x}"}, {"val/top1": 10.0 * e, "train/loss": 2.0 - e, "time/x": 1.0})
    for e in range(4)
]
DATA: dict[str, Any] = {"name": "digits", "sizes": {}}
RECORD = RunRecord("00", "run", "train", "", "mine", Recipe().to_dict(), ENVIRONMENT, DATA, EPOCHS)


def changed(epoch: int, digest: str = "", **metrics: float) -> list[Epoch]:
    """EPOCHS with one epoch's digest or metrics (train_loss for train/loss) replaced."""
    new = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    old = EPOCHS[epoch]
    other = Epoch(epoch, {"digest": digest} if digest else old.digests, old.metrics | new)
    return [*EPOCHS[:epoch], other, *EPOCHS[epoch + 1 :]]


def test_the_same_bits_are_identical_whatever_the_time_took_and_the_machine() -> None:
    again = changed(2, time_x=9.0)
    verdict = verify(RECORD, again, {**ENVIRONMENT, "cpu": "B"}, 0.5)
    assert (verdict.result, verdict.positive, verdict.num_epochs) == ("identical", True, 4)
    assert [each.name for each in verdict.environment] == ["cpu"]


@pytest.mark.parametrize(
    ("epochs", "environment", "result", "positive", "first"),
    [
        # The same machine owes the same bits, and other code is no excuse.
        (changed(1, digest="ff"), {}, "within tolerance", False, 1),
        (changed(1, digest="ff"), {"git_commit": "bb"}, "within tolerance", False, 1),
        (changed(1, digest="ff"), {"cpu": "B"}, "within tolerance", True, 1),
        (changed(2, train_loss=0.1), {"torch": "2.16"}, "within tolerance", True, 2),
        (changed(3, val_top1=29.0), {"cpu": "B"}, "differs", False, 3),
        (changed(3, val_top1=math.nan), {"cpu": "B"}, "differs", False, 3),
        ([], {}, "incomparable", False, None),
    ],
)
def test_other_bits_pass_only_on_another_machine_and_within_tolerance(
    epochs: list[Epoch], environment: dict[str, str], result: str, positive: bool, first: int | None
) -> None:
    verdict = verify(RECORD, epochs, {**ENVIRONMENT, **environment}, 0.5)
    assert (verdict.result, verdict.positive) == (result, positive)
    assert (verdict.first.epoch if verdict.first else None) == first
    assert result != "differs" or "outside the tolerance of 0.5" in verdict.text


def test_a_diverged_loss_equals_itself_and_missing_names_are_no_difference() -> None:
    old = [Epoch(0, {}, {"train/loss": math.nan, "val/top1": 1.0}), Epoch(1, {}, {})]
    new = [Epoch(0, {"digest": "1"}, {"train/loss": math.nan, "val/top1": 1.0, "rbnn/angle": 3.0})]
    assert first_difference(old, new) is None


def test_accuracies_recorded_with_all_digits_are_those_of_today() -> None:
    old = [Epoch(0, {}, {"val/top1": 85.13853904282116, "gpu/memory_gib": 3.0})]
    same = [Epoch(0, {}, {"val/top1": 85.1385, "gpu/memory_gib": 4.0})]
    assert first_difference(old, same) is None
    assert first_difference(old, [Epoch(0, {}, {"val/top1": 85.1386})]) is not None


def test_the_first_difference_names_the_largest_with_its_values() -> None:
    found = first_difference(EPOCHS, changed(2, digest="ee", train_loss=1e-9, val_top1=20.5))
    text = "epoch 2: train/loss 0.0 recorded, 1e-09 now, another digest of the weights"
    assert found is not None and found.text == text


def test_what_the_bits_depend_on_is_listed_first_and_what_was_not_recorded_is_not_listed() -> None:
    old = {"git_commit": "a", "cpu": "x", "command": "1", "git_dirty": "false"}
    found = environment_differences(old, {**old, "git_commit": "b", "cpu": "y", "new": "1"})
    assert [each.name for each in found] == ["cpu", "git_commit"]
    found = environment_differences(old, {**old, "git_dirty": "true", "command": "2"})
    assert [each.name for each in found] == ["git_dirty"]


NAMED = load_recipe("cifar10_resnet20_1w1a")
FIGURES = {"top1": 86.5, "spread": [86.3, 86.7]}


@pytest.mark.parametrize(
    ("low", "high", "result"),
    [(86.4, 86.7, "reached"), (86.3, 86.5, "within the known spread"), (86.2, 86.2, "not reached")],
)
def test_seeds_are_held_against_the_documented_figure(low: float, high: float, result: str) -> None:
    verdict = judge_seeds([low, high], NAMED.replace(seed=9, threads=2), NAMED, FIGURES)
    assert (verdict.result, verdict.positive) == (result, result != "not reached")
    assert verdict.mean == pytest.approx((low + high) / 2)
    assert f"documented 86.5 % (known spread 86.3 to 86.7): {result}" in verdict.text


def test_how_and_where_a_recipe_is_computed_leaves_it_the_same() -> None:
    changes: dict[str, Any] = {"compile": "on", "use_dali": True, "loader": "resident", "gpus": "0"}
    for name, value in changes.items():
        recipe = NAMED.replace(**{name: value})
        assert judge_seeds([86.6], recipe, NAMED, FIGURES).result == "reached"


def test_without_a_documented_spread_a_figure_is_reached_or_not() -> None:
    verdict = judge_seeds([86.49], NAMED, NAMED, {"top1": 86.5})
    assert (verdict.result, verdict.std) == ("not reached", None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epochs": 400}, "400 epochs instead of 1000"),
        ({"dataset": "digits"}, "data set digits instead of cifar10"),
        ({"val_fraction": 0.1}, "10% of the training images are held out"),
        ({"lr": 0.2}, "lr is 0.2 instead of 0.1"),
        ({"precision": "bf16"}, "precision is bf16 instead of float32"),
    ],
)
def test_a_changed_recipe_is_not_held_against_the_figure(change: dict[str, Any], why: str) -> None:
    verdict = judge_seeds([10.0], NAMED.replace(**change), NAMED, FIGURES)
    assert (verdict.result, verdict.positive) == ("not applicable", True)
    assert f"no documented figure applies: {why}" in verdict.text


def test_a_diff_tells_options_environment_data_and_the_first_epoch_apart() -> None:
    other = replace(
        RECORD,
        run_id="1" * 32,
        recipe=Recipe(lr=0.2, results_dir="there").to_dict(),
        environment={**ENVIRONMENT, "torch": "2.16"},
        data={"name": "digits", "sizes": {"train": 9}},
        epochs=changed(1, train_loss=5.0),
    )
    found = compare(RECORD, other)
    sections = (found.options, found.folders, found.environment, found.data)
    names = [each.name for rows in sections for each in rows]
    assert names == ["lr", "results_dir", "torch", "train images"]
    assert found.first is not None and found.first.epoch == 1 and found.deviation == 0.0
    text = "\n".join(lines_of(found))
    assert "options:\n  lr  0.1  ->  0.2" in text
    assert "first that differs is epoch 1: train/loss 1.0 and 5.0" in text
    assert "epochs: identical to the bit over 4" in lines_of(compare(RECORD, RECORD))
