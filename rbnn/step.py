"""One training step: forward, backward, SGD and counts; on a GPU as one graph where the network's
work is captured.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rbnn.data.loading import Batch, Drawn
from rbnn.state import Run


def take_step(run: Run, batch: Batch | Drawn) -> None:
    """Train on one batch and count it. Nothing is read from the device.

    The last, smaller batch of an epoch is computed operation by operation.
    """
    num = len(batch) if isinstance(batch, Drawn) else len(batch[1])
    if not run.network.captures or num < run.network.full_batch:
        learn(run, *batch)
    elif isinstance(batch, Drawn):
        make = batch.make
        run.captured(make, lambda rows: learn(run, *make(rows)))(batch.rows)
    else:
        run.captured(learn, lambda images, labels: learn(run, images, labels))(*batch)


def learn(run: Run, images: Tensor, labels: Tensor) -> None:
    """The step, operation by operation: SGD down the mean cross-entropy."""
    logits = (run.parallel or run.network)(images)
    loss = F.cross_entropy(logits, labels)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.counts.add(logits.detach(), labels, loss.detach())
