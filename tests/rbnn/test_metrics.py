"""Counts: exact over batches of any size, on the device until read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from rbnn import metrics
from rbnn.data.loading import Batch
from rbnn.metrics import Counts, Waiting, counted

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_classes", [3, 5, 10, 200])
def test_counts_equal_a_count_by_hand_whatever_the_batches(num_classes: int) -> None:
    logits, labels = torch.randn(101, num_classes), torch.randint(num_classes, (101,))
    counts = Counts(CPU)
    for part in torch.arange(101).split(32):
        counts.sums += counted(logits[part], labels[part])
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert counts.metrics("val") == {
        "val/top1": round(100 * int((ranks < 1).sum()) / 101, 4),
        "val/top5": round(100 * int((ranks < 5).sum()) / 101, 4),
        "val/loss": pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6),
    }


def test_a_known_loss_is_taken_as_it_is_without_its_graph() -> None:
    counts = Counts(CPU)
    logits = torch.eye(4).requires_grad_()
    counts.add(counted(logits, torch.arange(4), 0.25 * logits.mean() / logits.mean()))
    counts.add(counted(torch.eye(4)[:2], torch.tensor([1, 0]), torch.tensor(1.0)))
    assert not counts.sums.requires_grad
    assert counts.metrics("train") == {
        "train/loss": (4 * 0.25 + 2 * 1.0) / 6, "train/top1": 66.6667, "train/top5": 100.0
    }  # fmt: skip


def test_counts_are_exact_in_low_precision() -> None:
    counts = Counts(CPU)
    logits = torch.eye(10, dtype=torch.bfloat16)[torch.arange(257) % 10]
    counts.add(counted(logits, torch.arange(257) % 10, torch.tensor(1.0, dtype=torch.bfloat16)))
    assert counts.sums.tolist() == [257, 257, 257, 257]


def test_the_first_step_whose_loss_is_not_finite_is_noted_and_sums_begin_anew() -> None:
    counts = Counts(CPU)
    counts.begin(3)
    for loss in (1.0, torch.inf, torch.nan):
        counts.add(counted(torch.eye(4), torch.arange(4), torch.tensor(loss)))
    assert int(counts.finite_steps) == 4
    sums = counts.sums
    counts.begin(0)
    assert int(counts.finite_steps) == 0 and sums.tolist() == [0, 0, 0, 0]


def test_waiting_is_the_share_of_time_before_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])
    batch: Batch = (torch.zeros(1), torch.zeros(1))

    def batches() -> Iterator[Batch]:
        for _ in range(4):
            clock[0] += 3.0
            yield batch

    waiting = Waiting(batches())
    assert waiting.share == 0
    for given in waiting:
        assert given is batch
        clock[0] += 1.0
    assert waiting.share == 0.75
