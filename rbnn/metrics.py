"""Exact loss and top-k counts, kept on the device until an epoch ends; and the time spent waiting
for batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from rbnn.data.loading import Batch, Drawn
from rbnn.values import PERCENT_DIGITS


@torch.no_grad()
def counted(logits: Tensor, labels: Tensor, mean_loss: Tensor | None = None) -> Tensor:
    """(4,) float64 of a batch: loss, top-1 hits, top-5 hits, samples; logits (N, C), labels (N,).

    mean_loss: its cross-entropy where it is known already.
    """
    num = len(labels)
    if mean_loss is None:
        mean_loss = F.cross_entropy(logits.float(), labels)
    top = logits.topk(min(5, logits.shape[1]), 1).indices
    hits = top == labels[:, None]
    loss_sum = mean_loss.double() * num
    return torch.stack(
        [loss_sum, hits[:, 0].sum().double(), hits.sum().double(), loss_sum.new_full((), num)]
    )


class Counts:
    """Sums over an epoch, kept on the device: `sums` as `counted`, read once by the host, in
    `metrics`.

    finite_steps: training steps until the sum of losses was not finite any more. Both stay where
    they are, as a captured step writes to them.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self, step: int) -> None:
        """Go on at that training step: at 0 from nothing, else with the sums that there are."""
        if step == 0:
            self.sums.zero_()
        self.finite_steps.fill_(step)

    def add(self, batch: Tensor) -> None:
        """Add a training step's batch, as `counted`."""
        self.sums += batch
        self.finite_steps += self.sums[0] < math.inf

    def metrics(self, prefix: str) -> dict[str, float]:
        """`prefix`/loss (mean per sample), `prefix`/top1 and `prefix`/top5 (percent)."""
        loss, top1, top5, num = self.sums.tolist()
        return {
            f"{prefix}/loss": loss / num,
            f"{prefix}/top1": round(100 * top1 / num, PERCENT_DIGITS),
            f"{prefix}/top5": round(100 * top5 / num, PERCENT_DIGITS),
        }


class Waiting:
    """Iterates over `batches` and notes how long each was waited for."""

    def __init__(self, batches: Iterable[Batch | Drawn]) -> None:
        self.batches = batches
        self.waited_s = 0.0
        self.whole_s = 0.0

    def __iter__(self) -> Iterator[Batch | Drawn]:
        began = asked = time.perf_counter()
        for batch in self.batches:
            self.waited_s += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()
            self.whole_s = asked - began

    @property
    def share(self) -> float:
        """The share of the time, from 0 to 1, that was spent waiting."""
        return min(1.0, self.waited_s / self.whole_s) if self.whole_s else 0.0
