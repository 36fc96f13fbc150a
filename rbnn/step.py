"""One training step: forward, backward, SGD and counts; on a GPU as one graph where the network's
work is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rbnn.data.loading import Batch, Drawn
from rbnn.network import losses
from rbnn.state import TrainState


def take_step(run: TrainState, batch: Batch | Drawn) -> None:
    """Train on one batch and count it. Nothing is read from the device.

    The last, smaller batch of an epoch is computed operation by operation.
    """
    num = len(batch) if isinstance(batch, Drawn) else len(batch[1])
    is_whole = run.network.captures and run.recipe.compile == "on"
    if not is_whole or num < run.network.full_batch:
        learn(run, partial(losses, run.parallel or run.network), *batch)
        return
    compiled = run.network.losses
    if isinstance(batch, Drawn):
        make = batch.make
        run.captured(make, lambda rows: learn(run, compiled, *make(rows)))(batch.rows)
    else:
        run.captured(learn, partial(learn, run, compiled))(*batch)


def learn(
    run: TrainState, losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], *batch: Tensor
) -> None:
    """The step, operation by operation: SGD down the mean cross-entropy that `losses` gives."""
    loss, batch_counts = losses(*batch)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.counts.add(batch_counts)
