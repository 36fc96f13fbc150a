"""The loop: same seed, same bits, also across a resume; what it reports and keeps; where it stops;
that it learns.
"""

from __future__ import annotations

import dataclasses
import errno
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn import checkpoint, engine
from rbnn.data.loading import Batch, Loaders
from rbnn.diagnostics import TABLE
from rbnn.engine import BEST, LAST, evaluate, fit
from rbnn.errors import CheckpointError, NonFiniteLoss, RunFailed
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.recipe import Recipe
from rbnn.schedules import learning_rate, surrogate_tk

pytestmark = pytest.mark.usefixtures("settings_put_back")

RECIPE = Recipe(
    dataset="digits", epochs=3, batch_size=32, batch_size_test=16, Tmin=0.3, Tmax=3, threads=2
)
NAMES = {
    *(f"{split}/{name}" for split in ("train", "val") for name in ("loss", "top1", "top5")),
    *("epoch", "lr", "t", "k", "time/epoch_s", "time/images_per_s", "time/data_wait", "digest"),
    *(f"rbnn/{name}" for name in ("sin_beta", "cosine", "weight_flips", "rotation_gain")),
}
FewDigits = Callable[..., Loaders]


class Interrupted(Exception):
    """What a test's `report` raises to end a run early."""


@dataclasses.dataclass
class Listener:
    """A `report` that notes the metrics, times left out, and raises after `num_epochs` of them."""

    num_epochs: int = 10**9
    heard: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    paths: list[Path | None] = dataclasses.field(default_factory=list)

    def __call__(self, metrics: dict[str, Any], path: Path | None) -> None:
        self.heard.append(
            {name: value for name, value in metrics.items() if not name.startswith("time/")}
        )
        self.paths.append(path)
        if len(self.heard) == self.num_epochs:
            raise Interrupted


class Wrapped:
    """A training loader that counts the batches taken and hands each through `change(epoch, step,
    batch)`.
    """

    def __init__(self, loaders: Loaders, change: Callable[[int, int, Batch], Batch]) -> None:
        self.inner, self.change, self.taken = loaders.train, change, 0
        self.num_batches, self.num_images = loaders.train.num_batches, loaders.train.num_images

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(self.inner.epoch(epoch, start), start):
            self.taken += 1
            yield self.change(epoch, step, batch)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(few_digits: FewDigits) -> None:
    runs = {}
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        recipe, listener = RECIPE.replace(seed=seed, epochs=2), Listener()
        torch.rand(len(name))  # what came before must not matter
        fit(recipe, few_digits(recipe), listener)
        runs[name] = listener.heard
    assert runs["first"] == runs["again"]
    assert all(
        one["digest"] != other["digest"]
        for one, other in zip(runs["first"], runs["other"], strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "num_before"),
    [
        ({"warm_up": True}, 1),
        ({"rotation_update": 2}, 1),
        ({"rotation_update": 2, "semantics": "through_rotation"}, 2),
        ({"lr_type": "step", "lr_decay_step": (1,)}, 2),
    ],
    ids=["in the warm-up", "before a rotation update", "at a rotation update", "after a milestone"],
)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(
    changes: dict[str, Any], num_before: int, few_digits: FewDigits, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(**changes)
    whole, before, after = Listener(), Listener(num_before), Listener()
    fit(recipe, few_digits(recipe), whole, directory=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(recipe, few_digits(recipe), before, directory=tmp_path / "parts")
    torch.rand(3)
    run = fit(
        recipe,
        few_digits(recipe),
        after,
        directory=tmp_path / "parts",
        resume=tmp_path / "parts" / LAST,
    )
    assert [metrics["epoch"] for metrics in after.heard] == list(
        range(num_before - 1, recipe.epochs)
    )
    assert before.heard[:-1] + after.heard == whole.heard
    ends = [
        dataclasses.asdict(checkpoint.load(tmp_path / name / LAST)) for name in ("whole", "parts")
    ]
    for end in ends:
        end["metrics"] = {
            name: value for name, value in end["metrics"].items() if not name.startswith("time/")
        }
    assert checkpoint.digest_of(ends[0]) == checkpoint.digest_of(ends[1])
    bests = [checkpoint.load(tmp_path / name / BEST).metrics for name in ("whole", "parts")]
    assert bests[0]["epoch"] == bests[1]["epoch"] == run.best_epoch


def test_a_run_at_its_end_has_nothing_to_continue(few_digits: FewDigits, tmp_path: Path) -> None:
    recipe, listener = RECIPE.replace(epochs=1), Listener()
    done = fit(recipe, few_digits(recipe), Listener(), directory=tmp_path)
    again = fit(recipe, few_digits(recipe), listener, directory=tmp_path, resume=tmp_path / LAST)
    assert [metrics["epoch"] for metrics in listener.heard] == [0] and again.epoch == 1
    assert checkpoint.state_digest(again.model) == checkpoint.state_digest(done.model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.2}, r"written with lr 0\.1, this recipe has 0\.2; continue with the same recipe"),
        ({"seed": 3, "momentum": 0.5}, r"\(and 1 more differ\)"),
        ({"epochs": 5}, "written with epochs 2, this recipe has 5"),
    ],
    ids=str,
)
def test_another_recipe_does_not_continue_a_checkpoint(
    changes: dict[str, Any], message: str, few_digits: FewDigits, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(epochs=2)
    with pytest.raises(Interrupted):
        fit(recipe, few_digits(recipe), Listener(1), directory=tmp_path)
    other = recipe.replace(**changes)
    with pytest.raises(CheckpointError, match=message) as refusal:
        fit(other, few_digits(other), Listener(), resume=tmp_path / LAST)
    assert "\n" not in str(refusal.value)


def test_folders_and_printing_may_differ_but_data_may_not(
    few_digits: FewDigits, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(epochs=1)
    fit(recipe, few_digits(recipe), Listener(), directory=tmp_path)
    elsewhere = recipe.replace(save="other", print_freq=3)
    fit(elsewhere, few_digits(elsewhere), Listener(), resume=tmp_path / LAST)
    loaders = few_digits(recipe)
    foreign = dataclasses.replace(
        loaders, info=dataclasses.replace(loaders.info, fingerprint="sha256:foreign")
    )
    with pytest.raises(
        CheckpointError, match=r"trained on other data \(sha256:few, here sha256:foreign\)$"
    ):
        fit(recipe, foreign, Listener(), resume=tmp_path / LAST)


def test_a_checkpoint_of_weights_only_is_not_continued(
    few_digits: FewDigits, tmp_path: Path
) -> None:
    model = engine.start(RECIPE, torch.device("cpu")).model
    torch.save({"state_dict": model.state_dict(), "epoch": 2}, tmp_path / "authors.pt")
    with pytest.raises(CheckpointError, match="holds weights only and cannot be continued"):
        fit(RECIPE, few_digits(RECIPE), Listener(), resume=tmp_path / "authors.pt")


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Epochs cost nothing; for each, what it began with: a digest of the rotations, lr, and every
    layer's t and k.
    """
    seen: list[dict[str, Any]] = []

    def begin(run: engine.TrainState, *arguments: Any) -> dict[str, float]:
        layers = rotated_layers(run.model).values()
        rotations = checkpoint.digest_of(
            [matrix for layer in layers for matrix in (layer.R1, layer.R2)]
        )
        tk = {(float(layer.t), float(layer.k)) for layer in layers}
        seen.append(
            {
                "rotations": rotations,
                "lr": [group["lr"] for group in run.optimizer.param_groups],
                "tk": tk,
            }
        )
        return {}

    monkeypatch.setattr(engine, "train_epoch", begin)
    monkeypatch.setattr(engine, "evaluate", lambda model, loader: {})
    yield seen


@pytest.mark.parametrize(("interval", "updated"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_rotations_change_every_nth_epoch_only(
    interval: int, updated: list[int], few_digits: FewDigits, entered: list[dict[str, Any]]
) -> None:
    recipe = RECIPE.replace(epochs=4, rotation_update=interval)
    engine.train_epoch(engine.start(recipe, torch.device("cpu")), [], 0)
    fit(recipe, few_digits(recipe), Listener())
    rotations = [state["rotations"] for state in entered]
    assert [epoch for epoch in range(4) if rotations[epoch + 1] != rotations[epoch]] == updated


def test_an_epoch_trains_with_the_schedules_values_and_reports_them(
    few_digits: FewDigits, entered: list[dict[str, Any]]
) -> None:
    recipe, listener = RECIPE.replace(warm_up=True), Listener()
    fit(recipe, few_digits(recipe), listener)
    for epoch, (state, metrics) in enumerate(zip(entered, listener.heard, strict=True)):
        t, k = surrogate_tk(recipe, epoch)
        assert (metrics["lr"], metrics["t"], metrics["k"]) == (learning_rate(recipe, epoch), t, k)
        assert state["lr"] == [metrics["lr"]]
        assert [pytest.approx(value) for value in (t, k)] == list(*state["tk"])


def test_report_hears_every_epoch_once_by_the_documented_names(
    few_digits: FewDigits, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(epochs=2)
    heard: list[tuple[dict[str, Any], Path | None]] = []
    fit(recipe, few_digits(recipe), lambda *report: heard.append(report), directory=tmp_path)
    assert [metrics["epoch"] for metrics, _ in heard] == [0, 1]
    assert all(set(metrics) == NAMES for metrics, _ in heard)
    assert [path for _, path in heard] == [tmp_path / LAST] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([BEST, LAST, TABLE])
    assert checkpoint.load(tmp_path / LAST).metrics == heard[-1][0]


def test_without_a_folder_nothing_is_kept(
    few_digits: FewDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, listener = RECIPE.replace(epochs=1), Listener()
    fit(recipe, few_digits(recipe), listener)
    assert listener.paths == [None] and list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_is_of_the_best_epoch_the_earlier_of_equals(
    few_digits: FewDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [10.0, 30.0, 30.0, 20.0]
    recipe = RECIPE.replace(epochs=len(scores))
    remaining = iter(scores)
    monkeypatch.setattr(engine, "evaluate", lambda model, loader: {"val/top1": next(remaining)})
    digests: list[str] = []
    run = fit(
        recipe,
        few_digits(recipe),
        lambda metrics, path: digests.append(metrics["digest"]),
        directory=tmp_path,
    )
    best = checkpoint.load(tmp_path / BEST)
    assert (best.epoch, best.metrics["epoch"], best.best) == (2, 1, {"top1": 30.0, "epoch": 1})
    assert best.metrics["digest"] == digests[1] and run.best_epoch == 1
    assert checkpoint.load(tmp_path / LAST).best == {"top1": 30.0, "epoch": 1}


def test_progress_is_called_every_print_freq_steps(few_digits: FewDigits) -> None:
    recipe = RECIPE.replace(epochs=1, batch_size=16, print_freq=2)
    steps: list[tuple[int, int, int]] = []
    fit(
        recipe,
        few_digits(recipe, num_train=80),
        Listener(),
        progress=lambda *where: steps.append(where),
    )
    assert steps == [(0, 2, 5), (0, 4, 5)]


def test_a_loss_that_is_not_finite_stops_at_once_and_says_where(
    few_digits: FewDigits, tmp_path: Path
) -> None:
    recipe, listener = RECIPE.replace(batch_size=16), Listener()
    loaders = few_digits(recipe)

    def spoil(epoch: int, step: int, batch: Batch) -> Batch:
        return (batch[0] * math.nan, batch[1]) if (epoch, step) == (1, 2) else batch

    wrapped = Wrapped(loaders, spoil)
    t, k = surrogate_tk(recipe, 1)
    with pytest.raises(NonFiniteLoss) as failure:
        fit(recipe, dataclasses.replace(loaders, train=wrapped), listener, directory=tmp_path)
    where = f"epoch 1, step 2 (lr {learning_rate(recipe, 1):g}, t {t:g}, k {k:g})"
    assert str(failure.value) == f"the training loss is not finite at {where}; lower lr or Tmax"
    assert wrapped.taken == 4 + 3 and len(listener.heard) == 1
    assert checkpoint.load(tmp_path / LAST).epoch == 1


def test_a_learning_rate_far_too_high_is_a_loss_that_is_not_finite(few_digits: FewDigits) -> None:
    recipe = RECIPE.replace(lr=1e30)
    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step \d+ \(lr 1e\+30, t 0\.3, k 3\.33333\)"):
        fit(recipe, few_digits(recipe), Listener())


class Logits(nn.Module):
    """A network whose images are its logits; it notes the mode it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return images * self.scale


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_counts_every_image_once_with_a_ragged_last_batch(training: bool) -> None:
    logits, labels = torch.randn(37, 10), torch.randint(10, (37,))
    model = Logits().train(training)
    metrics = evaluate(model, zip(logits.split(16), labels.split(16), strict=True))
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert metrics["val/top1"] == round(100 * int((ranks == 0).sum()) / 37, 4)
    assert metrics["val/top5"] == round(100 * int((ranks < 5).sum()) / 37, 4)
    assert metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
    assert model.modes == [False] * 3 and model.training is training


class OneLayer(nn.Module):
    """One rotated layer whose spatial mean is the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = RotatedConv2d(3, 10, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).mean((2, 3))


def test_evaluation_computes_binary_weights_once_and_releases_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = OneLayer(), []
    original = RotatedConv2d.binary_weight
    monkeypatch.setattr(
        RotatedConv2d, "binary_weight", lambda layer: calls.append(layer) or original(layer)
    )
    images, labels = torch.randn(6, 3, 8, 8), torch.randint(10, (6,))
    with torch.no_grad():
        plain = Logits()
        expected = evaluate(plain, [(model(images), labels)])
    calls.clear()
    assert evaluate(model, zip(images.split(2), labels.split(2), strict=True)) == pytest.approx(
        expected
    )
    assert len(calls) == 1
    with torch.no_grad():
        before = model(images)
        model.layer.weight.neg_()
        assert not torch.equal(model(images), before)


def test_an_evaluation_that_fails_leaves_no_weight_frozen() -> None:
    model = OneLayer()
    images, labels = torch.randn(2, 3, 8, 8), torch.randint(10, (2,))

    def failing() -> Iterator[Batch]:
        yield images, labels
        raise OSError("disk")

    with torch.no_grad():
        before = model(images)
        with pytest.raises(OSError, match="disk"):
            evaluate(model, failing())
        model.layer.weight.neg_()
        assert not torch.equal(model(images), before)
    model(images).sum().backward()
    assert model.layer.weight.grad is not None


def test_two_classes_of_real_digits_are_learned(few_digits: FewDigits) -> None:
    recipe, listener = RECIPE.replace(epochs=5, batch_size=16, lr=0.02), Listener()
    fit(recipe, few_digits(recipe, num_train=96, num_classes=2), listener)
    assert (
        listener.heard[-1]["train/top1"] > 75
    )  # in training mode: so few steps leave the running statistics behind
    assert listener.heard[-1]["train/loss"] < listener.heard[0]["train/loss"] / 2


@pytest.mark.parametrize("every", [0, 1])
def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_checkpoint(
    every: int, few_digits: FewDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.replace(epochs=1, checkpoint_steps=every)
    (tmp_path / LAST).write_bytes(b"the last one")

    def full(content: Any, file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        RunFailed,
        match=r"^no checkpoint can be written to '.*': No space left on device; make room, "
        r"and go on",
    ):
        fit(
            recipe,
            few_digits(recipe, num_train=4 if every == 0 else 36),
            Listener(),
            directory=tmp_path,
        )
    assert (tmp_path / LAST).read_bytes() == b"the last one"
