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


RANK_SCRIPT = """
import dataclasses, json, sys
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed as dist
from rbnn.data import digits, open_loaders
from rbnn.engine import LAST, fit
from rbnn.recipe import Recipe
from rbnn.distributed import World

rank, size = int(sys.argv[1]), int(sys.argv[2])
folder, cases = Path(sys.argv[3]), json.loads(sys.argv[4])
store = dist.FileStore(str(folder / "store"), size)
dist.init_process_group(
    "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120)
)
world, source = World.current(), digits.read()
train, val = source.train.subset(list(range(24))), source.val.subset(list(range(17)))
digits.read = lambda: dataclasses.replace(source, train=train, val=val)


class Interrupted(Exception):
    pass


def part(recipe, name, heard, at=None):
    def report(metrics, path):
        plain = {key: value for key, value in metrics.items() if "time/" not in key}
        assert heard.setdefault(metrics["epoch"], plain) == plain

    def progress(epoch, step, num_steps):
        if [epoch, step] == at:
            raise Interrupted

    last = folder / name / LAST
    dist.barrier()
    resume = last if last.exists() else None
    dist.barrier()
    try:
        loaders = open_loaders(recipe, torch.device("cpu"), world)
        fit(recipe, loaders, report, directory=folder / name, resume=resume, progress=progress)
    except Interrupted:
        return


results = {}
for name, case in cases.items():
    whole, parts = {}, {}
    part(Recipe(**case["recipe"]), f"{name}-whole", whole)
    recipe = Recipe(**{**case["recipe"], "checkpoint_steps": 1})
    for at in [*case["interruptions"], None]:
        part(recipe, f"{name}-parts", parts, at)
    results[name] = [whole, parts]
(folder / f"{rank}.json").write_text(json.dumps(results))
dist.destroy_process_group()
"""


def over_ranks(size: int, cases: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What each of `size` processes heard in each case: whole, and in parts."""
    command = [sys.executable, "-c", RANK_SCRIPT]
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
    """Ranks agree on every digest of weights and rotations, count each validation image once, and
    resume within an epoch.
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
    for name, (whole, parts) in ranks[0].items():
        assert len(whole) == base.epochs and parts == whole
        assert all(rank[name] == [whole, parts] for rank in ranks)
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
