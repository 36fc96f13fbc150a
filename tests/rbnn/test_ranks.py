"""Several ranks: they agree, count each image once, and a run of theirs that is interrupted ends
with the same bits.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rbnn import checkpoint, engine
from rbnn.data import digits, open_loaders
from rbnn.distributed import World
from rbnn.engine import LAST
from rbnn.errors import RunFailed
from rbnn.recipe import Recipe

pytestmark = pytest.mark.usefixtures("settings_put_back")

HAS_DALI = (
    importlib.util.find_spec("nvidia") is not None
    and importlib.util.find_spec("nvidia.dali") is not None
)
# Epochs of three steps; rotations updated in 0 and 2, a milestone at 1.
RECIPE = Recipe(
    dataset="digits",
    batch_size=8,
    batch_size_test=16,
    Tmin=0.3,
    Tmax=3,
    rotation_update=2,
    lr_type="step",
    lr_decay_step=(1,),
    workers=1,
    threads=1,
    print_freq=1,
)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    source = digits.read()
    train, val = (
        split.subset(list(range(num))) for split, num in ((source.train, 24), (source.val, 17))
    )
    monkeypatch.setattr(digits, "read", lambda: dataclasses.replace(source, train=train, val=val))


def over_ranks(size: int, cases: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What each of `size` processes of ranks.py wrote."""
    command = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
    arguments = [str(size), str(folder), json.dumps(cases)]
    processes = [
        subprocess.Popen([*command, str(rank), *arguments], stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * size, outputs
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 4])
def test_an_interrupted_run_of_several_ranks_ends_with_the_same_bits(
    size: int, outcome: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """Ranks agree on every digest of weights and rotations, whatever all but the first had, count
    each validation image once, and resume within an epoch.
    """
    base = RECIPE.replace(train_workers=size, epochs=3 if size == 2 else 2)
    loaders = {"resident": {"loader": "resident"}}
    if size == 2:
        loaders |= {"torchvision": {"loader": "torchvision"}} | (
            {"dali": {"use_dali": True}} if HAS_DALI else {}
        )
    interruptions = [[0, 1], [1, 2], [2, 1]] if size == 2 else [[0, 2]]
    cases = {
        name: {"recipe": base.replace(**how).to_dict(), "interruptions": interruptions}
        for name, how in loaders.items()
    }
    ranks = over_ranks(size, cases, tmp_path)
    for name, found in ranks[0].items():
        whole, parts = found["heard"]
        assert len(whole) == base.epochs and parts == whole
        assert len(set(found["rotations"])) == len(range(0, base.epochs, base.rotation_update))
        assert all(rank[name] == found for rank in ranks)
        assert outcome(tmp_path / f"{name}-parts") == outcome(tmp_path / f"{name}-whole")
        state = checkpoint.load(tmp_path / f"{name}-parts" / LAST)
        model = engine.start(base, torch.device("cpu")).model
        checkpoint.load_weights(model, state, tmp_path)
        alone = engine.evaluate(
            model, open_loaders(base.replace(**loaders[name]), torch.device("cpu")).val
        )
        for metric, value in alone.items():
            assert state.metrics[metric] == (
                pytest.approx(value) if metric == "val/loss" else value
            )


class Unequal(World):
    """A world of two whose other rank holds something else."""

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, tensor + 1])


def test_ranks_that_drift_apart_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    with pytest.raises(RunFailed, match="weights after epoch 3 differ between the 2 workers"):
        Unequal(0, 2).check_equal("0123456789abcdef", "weights after epoch 3")
    World(0, 1).check_equal("0123456789abcdef", "weights")
