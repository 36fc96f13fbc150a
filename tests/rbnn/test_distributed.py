"""World: alone it does nothing, and ranks that differ stop. What several do: test_ranks.py."""

from __future__ import annotations

import pytest
import torch

from rbnn.distributed import World
from rbnn.errors import RunFailed


def test_a_single_process_leads_and_changes_nothing() -> None:
    world = World.current()
    assert world == World(0, 1) and world.leads
    tensor = torch.tensor([1.0, 2.0])
    world.sum_(tensor)
    world.broadcast_([tensor])
    world.check_equal("0123456789abcdef", "weights")
    assert tensor.tolist() == [1.0, 2.0]


class Unequal(World):
    """A world of two whose other rank holds something else."""

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, tensor + 1])


def test_ranks_that_drift_apart_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    with pytest.raises(RunFailed, match="weights after epoch 3 differ between the 2 workers"):
        Unequal(0, 2).check_equal("0123456789abcdef", "weights after epoch 3")
