"""Exact loss and top-k counts, kept on the device until an epoch ends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Counts:
    """Sums over an epoch, in float64 on the device: loss, top-1 hits, top-5 hits, samples. One host read, in `metrics`."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, mean_loss: Tensor | None = None) -> None:
        """Count one batch: logits (N, C), labels (N,). `mean_loss`: its cross-entropy where it is known already."""
        num = len(labels)
        if mean_loss is None:
            mean_loss = F.cross_entropy(logits.float(), labels)
        top = logits.topk(min(5, logits.shape[1]), 1).indices
        hits = top == labels[:, None]
        loss_sum = mean_loss.double() * num
        self.sums += torch.stack([loss_sum, hits[:, 0].sum().double(), hits.sum().double(), loss_sum.new_full((), num)])

    def metrics(self, prefix: str) -> dict[str, float]:
        """`prefix`/loss (mean per sample), `prefix`/top1 and `prefix`/top5 (percent)."""
        loss, top1, top5, num = self.sums.tolist()
        return {f"{prefix}/loss": loss / num, f"{prefix}/top1": 100 * top1 / num, f"{prefix}/top5": 100 * top5 / num}
