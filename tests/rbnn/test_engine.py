"""The loop: same seed, same bits; what it reports and keeps; where it stops; that it learns."""

from __future__ import annotations

import dataclasses
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rbnn import checkpoint, engine
from rbnn.data import digits, open_loaders
from rbnn.data.loading import Batch
from rbnn.diagnostics import TABLE
from rbnn.engine import BEST, LAST, evaluate, fit
from rbnn.errors import CheckpointError, NonFiniteLoss, RunFailed
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.metrics import Counts, counted
from rbnn.schedules import learning_rate, surrogate_tk
from tests.rbnn.small import CPU, RECIPE, Listener, few_digits, train

pytestmark = pytest.mark.usefixtures("settings_put_back", "few_digits")

NAMES = {
    *(f"{split}/{name}" for split in ("train", "val") for name in ("loss", "top1", "top5")),
    *("epoch", "lr", "t", "k", "time/epoch_s", "time/images_per_s", "time/data_wait", "digest"),
    *(f"rbnn/{name}" for name in ("sin_beta", "cosine", "weight_flips", "rotation_gain")),
}


@dataclasses.dataclass
class Finished:
    """A run of two epochs: its folder, what was reported, and where it said to be."""

    folder: Path
    reports: list[tuple[dict[str, Any], Path | None]] = dataclasses.field(default_factory=list)
    places: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="module")
def finished(few_digits: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    done = Finished(tmp_path_factory.mktemp("finished"))
    train(
        RECIPE.replace(epochs=2, print_freq=2),
        lambda *report: done.reports.append(report),
        directory=done.folder,
        progress=lambda *place: done.places.append(place),
    )
    return done


def test_report_hears_every_epoch_once_by_the_documented_names(finished: Finished) -> None:
    assert [metrics["epoch"] for metrics, _ in finished.reports] == [0, 1]
    assert all(metrics.keys() == NAMES for metrics, _ in finished.reports)
    assert [path for _, path in finished.reports] == [finished.folder / LAST] * 2
    assert {path.name for path in finished.folder.iterdir()} == {BEST, LAST, TABLE}
    assert checkpoint.load(finished.folder / LAST).metrics == finished.reports[-1][0]
    assert finished.places == [(0, 2, 3), (1, 2, 3)]


def test_the_seed_decides_the_bits_and_without_a_folder_nothing_is_kept(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {}
    for seed in (RECIPE.seed, 8):
        runs[seed] = Listener()
        torch.rand(seed)  # what came before must not matter
        train(RECIPE.replace(epochs=2, seed=seed), runs[seed])
    again, other = (listener.heard for listener in runs.values())
    for epoch, (metrics, _) in enumerate(finished.reports):
        assert again[epoch]["digest"] == metrics["digest"] != other[epoch]["digest"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_at_its_end_has_nothing_to_continue_wherever_it_goes_on(finished: Finished) -> None:
    listener, last = Listener(), finished.folder / LAST
    elsewhere = RECIPE.replace(epochs=2, save="other", print_freq=3)
    again = train(elsewhere, listener, resume=last)
    assert [*listener.heard] == [1] and again.epoch == 2
    assert checkpoint.state_digest(again.model) == finished.reports[-1][0]["digest"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.2}, "with lr 0.1, this recipe has 0.2; continue with the same recipe"),
        ({"seed": 3, "momentum": 0.5}, "(and 1 more differ)"),
        ({"epochs": 5}, "written with epochs 2, this recipe has 5"),
        ({}, "trained on other data (sha256:few, here sha256:foreign)"),
    ],
    ids=str,
)
def test_another_recipe_or_other_data_do_not_continue_a_checkpoint(
    changes: dict[str, Any], message: str, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = dataclasses.replace(digits.read(), fingerprint="sha256:foreign")
    monkeypatch.setattr(digits, "read", lambda: foreign)
    with pytest.raises(CheckpointError) as refusal:
        train(RECIPE.replace(epochs=2).replace(**changes), resume=finished.folder / LAST)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_checkpoint_of_weights_only_is_not_continued(tmp_path: Path) -> None:
    model = engine.start(RECIPE, CPU).model
    torch.save({"state_dict": model.state_dict(), "epoch": 2}, tmp_path / "authors.pt")
    with pytest.raises(CheckpointError, match="holds weights only and cannot be continued"):
        train(RECIPE, resume=tmp_path / "authors.pt")


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Epochs cost nothing; for each, the rotations' digest, lr, and every layer's (t, k)."""
    seen: list[dict[str, Any]] = []

    def begin(run: engine.TrainState, *arguments: Any) -> dict[str, float]:
        layers = rotated_layers(run.model).values()
        seen.append(
            {
                "rotations": checkpoint.digest_of([[layer.R1, layer.R2] for layer in layers]),
                "lr": [group["lr"] for group in run.optimizer.param_groups],
                "tk": {(float(layer.t), float(layer.k)) for layer in layers},
            }
        )
        return {}

    monkeypatch.setattr(engine, "train_epoch", begin)
    monkeypatch.setattr(engine, "evaluate", lambda model, loader: {})
    return seen


@pytest.mark.parametrize(("interval", "updated"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_rotations_change_every_nth(
    interval: int, updated: list[int], entered: list[dict[str, Any]]
) -> None:
    recipe = RECIPE.replace(epochs=4, rotation_update=interval)
    engine.train_epoch(engine.start(recipe, CPU), [], 0)
    train(recipe)
    rotations = [state["rotations"] for state in entered]
    assert [epoch for epoch in range(4) if rotations[epoch + 1] != rotations[epoch]] == updated


def test_an_epoch_trains_with_the_schedules_values_and_says_so(
    entered: list[dict[str, Any]],
) -> None:
    recipe, listener = RECIPE.replace(epochs=3, warm_up=True), Listener()
    train(recipe, listener)
    for epoch, state in enumerate(entered):
        metrics, (t, k) = listener.heard[epoch], surrogate_tk(recipe, epoch)
        assert (metrics["lr"], metrics["t"], metrics["k"]) == (learning_rate(recipe, epoch), t, k)
        assert state["lr"] == [metrics["lr"]]
        assert [pytest.approx(value) for value in (t, k)] == list(*state["tk"])


@pytest.mark.usefixtures("entered")
def test_the_best_checkpoint_is_of_the_best_epoch_the_earlier_of_equals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, listener = iter([10.0, 30.0, 30.0, 20.0]), Listener()
    monkeypatch.setattr(engine, "evaluate", lambda model, loader: {"val/top1": next(scores)})
    run = train(RECIPE.replace(epochs=4), listener, directory=tmp_path)
    best = checkpoint.load(tmp_path / BEST)
    assert (best.epoch, best.metrics["epoch"], best.best) == (2, 1, {"top1": 30.0, "epoch": 1})
    assert best.metrics["digest"] == listener.heard[1]["digest"] and run.best_epoch == 1
    assert checkpoint.load(tmp_path / LAST).best == {"top1": 30.0, "epoch": 1}


def test_a_loss_that_is_not_finite_stops_at_once_and_says_where(tmp_path: Path) -> None:
    recipe, listener, taken = RECIPE.replace(epochs=3), Listener(), []
    loaders = open_loaders(recipe, CPU)
    plain = loaders.train.epoch

    def spoilt(epoch: int, start: int = 0) -> Iterator[Batch]:
        for step, (images, labels) in enumerate(plain(epoch, start)):
            taken.append((epoch, step))
            yield images * math.nan if taken[-1] == (1, 1) else images, labels

    loaders.train.epoch = spoilt
    t, k = surrogate_tk(recipe, 1)
    with pytest.raises(NonFiniteLoss) as failure:
        fit(recipe, loaders, listener, directory=tmp_path)
    where = f"epoch 1, step 1 (lr {learning_rate(recipe, 1):g}, t {t:g}, k {k:g})"
    assert str(failure.value) == f"the training loss is not finite at {where}; lower lr or Tmax"
    assert taken[-1] == (1, 1) and [*listener.heard] == [0]
    assert checkpoint.load(tmp_path / LAST).epoch == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_an_evaluation_leaves_the_network_as_it_was_even_where_it_fails(
    fails: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And computes binary weights once; every image counts, with a ragged last batch."""
    layer, modes, calls = RotatedConv2d(3, 10, 3), [], []
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).train(training)
    model.register_forward_pre_hook(lambda model, images: modes.append(model.training))
    images, labels = torch.randn(7, 3, 8, 8), torch.randint(10, (7,))
    logits = model(images)
    plain = RotatedConv2d.binary_weight
    monkeypatch.setattr(
        RotatedConv2d, "binary_weight", lambda layer: calls.append(layer) or plain(layer)
    )

    def batches() -> Iterator[Batch]:
        yield from zip(images.split(3), labels.split(3), strict=True)
        if fails:
            raise OSError("disk")

    if fails:
        with pytest.raises(OSError, match="disk"):
            evaluate(model, batches())
    else:
        counts = Counts(CPU)
        counts.sums += counted(logits.detach(), labels)
        assert evaluate(model, batches()) == pytest.approx(counts.metrics("val"))
    assert len(calls) == 1 and modes == [training, False, False, False]
    assert model.training is training
    with torch.no_grad():
        layer.weight.neg_()
    after = model(images)
    assert not torch.equal(after, logits)
    after.sum().backward()
    assert layer.weight.grad is not None


def test_two_classes_of_real_digits_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    few = few_digits(num_train=48, num_classes=2)
    monkeypatch.setattr(digits, "read", lambda: few)
    listener = Listener()
    train(RECIPE.replace(epochs=6, batch_size=16, lr=0.02), listener)
    # In training mode: so few steps leave the running statistics behind.
    assert listener.heard[5]["train/top1"] > 75
    assert listener.heard[5]["train/loss"] < listener.heard[0]["train/loss"] / 2


@pytest.mark.parametrize("every", [0, 1])
def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_checkpoint(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LAST).write_bytes(b"the last one")

    def full(content: Any, file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    told = r"^no checkpoint can be written to '.*': No space left on device; make room, and go on"
    with pytest.raises(RunFailed, match=told):
        train(RECIPE.replace(epochs=1, checkpoint_steps=every), directory=tmp_path)
    assert (tmp_path / LAST).read_bytes() == b"the last one"
