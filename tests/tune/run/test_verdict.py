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
    Epoch(
        e, {"digest": f"{e:x}"}, {"val/top1": 10.0 * e, "train/loss": 2.0 - e, "time/epoch_s": 1.0}
    )
    for e in range(4)
]
RECORD = RunRecord(
    "0" * 32,
    "run",
    "train",
    "FINISHED",
    "mine",
    Recipe().to_dict(),
    ENVIRONMENT,
    {"name": "digits", "sizes": {}},
    EPOCHS,
)


def changed(epoch: int, **values: Any) -> list[Epoch]:
    """EPOCHS with one epoch's digest or metrics replaced."""
    digests = {"digest": values.pop("digest", EPOCHS[epoch].digests["digest"])}
    return [
        Epoch(
            e.epoch,
            digests,
            {**e.metrics, **{k.replace("_", "/", 1): v for k, v in values.items()}},
        )
        if e.epoch == epoch
        else e
        for e in EPOCHS
    ]


def test_the_same_bits_are_identical_whatever_the_time_took_and_the_machine() -> None:
    again = changed(2, time_epoch_s=9.0)
    verdict = verify(RECORD, again, {**ENVIRONMENT, "cpu": "B"}, 0.5)
    assert (verdict.result, verdict.positive, verdict.num_epochs) == ("identical", True, 4)
    assert [each.name for each in verdict.environment] == ["cpu"]


@pytest.mark.parametrize(
    ("epochs", "environment", "result", "positive", "first"),
    [
        (
            changed(1, digest="ff"),
            {},
            "within tolerance",
            False,
            1,
        ),  # the same machine owes the same bits
        (changed(1, digest="ff"), {"cpu": "B"}, "within tolerance", True, 1),
        (
            changed(1, digest="ff"),
            {"git_commit": "bb"},
            "within tolerance",
            False,
            1,
        ),  # code is no excuse
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


def test_the_first_difference_names_the_largest_with_its_values() -> None:
    found = first_difference(EPOCHS, changed(2, digest="ee", train_loss=1e-9, val_top1=20.5))
    assert found is not None
    assert (
        found.text == "epoch 2: train/loss 0.0 recorded, 1e-09 now, another digest of the weights"
    )


def test_what_the_bits_depend_on_is_listed_first_and_what_was_not_recorded_is_not_listed() -> None:
    found = environment_differences(
        {"git_commit": "a", "cpu": "x", "command": "1"}, {"git_commit": "b", "cpu": "y", "new": "1"}
    )
    assert [each.name for each in found] == ["cpu", "git_commit"]
    changed_tree = environment_differences(
        {"git_commit": "a", "git_dirty": "false"}, {"git_commit": "a", "git_dirty": "true"}
    )
    assert [each.name for each in changed_tree] == ["git_dirty"]


NAMED = load_recipe("cifar10_resnet20_1w1a")
FIGURES = {"top1": 86.5, "spread": [86.3, 86.7]}


@pytest.mark.parametrize(
    ("tops", "result"),
    [
        ([86.4, 86.7], "reached"),
        ([86.3, 86.5], "within the known spread"),
        ([86.2, 86.2], "not reached"),
    ],
)
def test_seeds_are_held_against_the_documented_figure(tops: list[float], result: str) -> None:
    verdict = judge_seeds(tops, NAMED.replace(seed=9, threads=2), NAMED, FIGURES)
    assert (verdict.result, verdict.positive) == (result, result != "not reached")
    assert verdict.mean == pytest.approx(sum(tops) / 2)
    assert f"documented 86.5 % (known spread 86.3 to 86.7): {result}" in verdict.text


@pytest.mark.parametrize(
    "change",
    [{"compile": "on"}, {"use_dali": True}, {"loader": "resident"}, {"gpus": "0"}],
    ids=str,
)
def test_how_and_where_a_recipe_is_computed_leaves_it_the_same(change: dict[str, Any]) -> None:
    assert judge_seeds([86.6], NAMED.replace(**change), NAMED, FIGURES).result == "reached"


def test_without_a_documented_spread_a_figure_is_reached_or_not() -> None:
    assert judge_seeds([86.49], NAMED, NAMED, {"top1": 86.5}).result == "not reached"
    assert judge_seeds([86.49], NAMED, NAMED, {"top1": 86.5}).std is None


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
    names = [
        [each.name for each in rows]
        for rows in (found.options, found.folders, found.environment, found.data)
    ]
    assert names == [["lr"], ["results_dir"], ["torch"], ["train images"]]
    assert found.first is not None and found.first.epoch == 1 and found.deviation == 0.0
    text = "\n".join(lines_of(found))
    assert (
        "lr  0.1  ->  0.2" in text
        and "first that differs is epoch 1: train/loss 1.0 and 5.0" in text
    )
    assert "epochs: identical to the bit over 4" in lines_of(compare(RECORD, RECORD))
