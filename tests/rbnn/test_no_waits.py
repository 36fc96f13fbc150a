"""What a training step asks of a device, seen without one: tensors of the meta device hold nothing,
so nothing can be read.

tests/rbnn/test_gpu.py asserts the same on a GPU, where torch itself watches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rbnn import polar, rotation, weights
from rbnn.data.loading import Batch
from rbnn.diagnostics import Diagnostics
from rbnn.distributed import World
from rbnn.engine import rotate_and_broadcast, train_epoch
from rbnn.metrics import Counts
from rbnn.models import build
from rbnn.network import Network
from rbnn.recipe import Recipe
from rbnn.state import TrainState

META = torch.device("meta")
RECIPE = Recipe(dataset="cifar10", model="resnet20_1w1a", batch_size=4)
NUM_STEPS = 2


class Watch(TorchDispatchMode):
    """Counts operations, views apart; notes those that bring tensors of two devices together."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.mixed: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        leaves = tree_leaves((args, kwargs, result))
        if len({leaf.device for leaf in leaves if isinstance(leaf, Tensor)}) > 1:
            self.mixed.append(str(func))
        return result


def run_on_meta() -> TrainState:
    model = build(RECIPE.model, RECIPE.dataset).to(META)
    # The fused one knows no meta device.
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, foreach=True)
    network, diagnostics = Network(model, RECIPE, META), Diagnostics(model)
    return TrainState(RECIPE, model, network, optimizer, META, World(), diagnostics, Counts(META))


def test_no_step_reads_from_the_device_or_brings_anything_there() -> None:
    class AfterTheSteps(Exception):
        pass

    def batches() -> Iterator[Batch]:
        for _ in range(NUM_STEPS):
            with META:
                yield torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
        raise AfterTheSteps

    run, watch = run_on_meta(), Watch()
    with watch, pytest.raises(AfterTheSteps):
        train_epoch(run, batches(), num_batches=10)
    assert run.step == NUM_STEPS
    assert watch.mixed == [] and watch.count > 1000


def test_a_networks_rotation_update_is_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "polar_factors", polar.newton_schulz_together)  # as on a GPU
    monkeypatch.setattr(weights, "on_gpu", lambda layers: True)
    run, watch = run_on_meta(), Watch()
    with watch:
        rotate_and_broadcast(run.network, World())
    # 3,650 where each group of layers finds its factors alone.
    assert watch.mixed == [] and watch.count < 1200, watch.count
