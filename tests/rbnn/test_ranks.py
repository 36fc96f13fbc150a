"""Several processes train one run: the same bits, whole or interrupted, with every loader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rbnn import checkpoint, engine
from rbnn.data import open_loaders
from rbnn.engine import LAST
from tests.rbnn.small import CPU, HAS_DALI, RECIPE, how, outcome

pytestmark = pytest.mark.usefixtures("settings_put_back", "few_digits")

# More than two: with those, in_parallel's order of the gradients decides bits.
SIZE = 3


def test_an_interrupted_run_of_several_ranks_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Ranks agree on every digest of weights and rotations, whatever all but the first had, count
    each validation image once, and resume within an epoch.
    """
    base = RECIPE.replace(
        epochs=3, rotation_update=2, lr_type="step", lr_decay_step=(1,), train_workers=SIZE
    )
    recipes = {"resident": base.replace(**how("resident"))}
    for kind in ("torchvision", "dali") if HAS_DALI else ("torchvision",):
        recipes[kind] = base.replace(epochs=2, **how(kind))
    places = {"resident": [[0, 1], [1, 2], [2, 1]]}
    cases = {
        kind: {"recipe": recipe.to_dict(), "interruptions": places.get(kind, [[0, 2]])}
        for kind, recipe in recipes.items()
    }
    command = [sys.executable, "-m", "tests.rbnn.ranks"]
    given = [str(SIZE), str(tmp_path), json.dumps(cases)]
    processes = [
        subprocess.Popen([*command, str(rank), *given], stderr=subprocess.PIPE)
        for rank in range(SIZE)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * SIZE, errors
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(SIZE)]
    for kind, found in ranks[0].items():
        whole, parts = found["heard"]
        assert len(whole) == recipes[kind].epochs and parts == whole
        assert len(set(found["rotations"])) == (recipes[kind].epochs + 1) // 2
        assert all(rank[kind] == found for rank in ranks)
        assert outcome(tmp_path / f"{kind}-parts") == outcome(tmp_path / f"{kind}-whole")
        state = checkpoint.load(tmp_path / f"{kind}-parts" / LAST)
        model = engine.start(base, CPU).model
        checkpoint.load_weights(model, state, tmp_path)
        alone = engine.evaluate(model, open_loaders(recipes[kind], CPU).val)
        alone["val/loss"] = pytest.approx(alone["val/loss"])
        assert alone == {metric: state.metrics[metric] for metric in alone}
