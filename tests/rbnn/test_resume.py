"""A run that is killed, wherever, and continued ends with the bits of one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rbnn import checkpoint, engine
from rbnn.engine import BEST, LAST
from tests.rbnn import small
from tests.rbnn.small import Interrupted, Listener, how, outcome, train_part, without_times

pytestmark = pytest.mark.usefixtures("settings_put_back", "few_digits")

# 0 to 4 in the warm-up, rotations updated in 0, 2, 4, 6, a milestone at 5.
RECIPE = small.RECIPE.replace(
    epochs=7, warm_up=True, rotation_update=2, lr_type="step", lr_decay_step=(5,)
)


def bomb(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Interrupt the run after the first call of `owner.name` for which `when(arguments)` holds."""
    known = getattr(owner, name)

    def then_interrupted(*arguments: Any) -> None:
        known(*arguments)
        if when(*arguments):
            monkeypatch.setattr(owner, name, known)
            raise Interrupted

    monkeypatch.setattr(owner, name, then_interrupted)


# From checkpoints after epochs alone with one loader: there, none begins within an epoch.
@pytest.mark.parametrize(
    ("kind", "every"),
    [
        ("resident", 0),
        ("resident", 1),
        ("torchvision", 1),
        pytest.param("dali", 1, marks=small.needs_dali),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    kind: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the warm-up, at a rotation update, after a milestone; between best.ckpt and last.ckpt;
    before an epoch is heard.
    """
    recipe, whole, heard = RECIPE.replace(**how(kind)), Listener(), {}
    train_part(recipe, tmp_path / "whole", whole)
    parts, last = tmp_path / "parts", tmp_path / "parts" / LAST
    recipe = recipe.replace(checkpoint_steps=every)

    def interrupted(at: tuple[int, int | None] | None = None) -> None:
        with pytest.raises(Interrupted):
            train_part(recipe, parts, Listener(at, heard))
        torch.rand(3)  # what happens elsewhere must not matter

    interrupted((0, 1))
    assert last.exists() == (every == 1)
    bomb(monkeypatch, checkpoint, "link", lambda *_: True)
    interrupted()
    assert checkpoint.load(parts / BEST).epoch == 1
    assert not last.exists() or checkpoint.load(last).epoch == 0
    interrupted((1, 2))
    state = checkpoint.load(last)
    assert (state.epoch, state.step) == (1, 2 * every)
    bomb(monkeypatch, engine, "rotate_and_broadcast", lambda *_: checkpoint.load(last).epoch == 2)
    interrupted()
    interrupted((2, None))
    assert max(heard) == 1 and checkpoint.load(last).epoch == 3
    interrupted((5, 2))
    train_part(recipe, parts, Listener(heard=heard))
    assert heard == whole.heard and outcome(parts) == outcome(tmp_path / "whole")


def test_sigkill_at_any_moment_and_in_the_middle_of_writing(tmp_path: Path) -> None:
    """After a seeded number of steps, and half-way through a checkpoint."""
    recipe, whole, heard = RECIPE.replace(checkpoint_steps=1), Listener(), {}
    train_part(recipe, tmp_path / "whole", whole)
    parts, last = tmp_path / "parts", tmp_path / "parts" / LAST

    def part(fatal_step: int = 0, fatal_save: int = 0) -> int:
        command = [sys.executable, "-m", "tests.rbnn.killed", json.dumps(recipe.to_dict())]
        with subprocess.Popen(
            [*command, str(parts), str(fatal_save)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout and process.stderr
            for line in process.stdout:
                if line != "step\n":
                    metrics = json.loads(line)
                    heard[metrics["epoch"]] = without_times(metrics)
                    continue
                fatal_step -= 1
                if fatal_step == 0:
                    process.kill()
                    break
            process.stdout.read()
            errors = process.stderr.read()
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode

    assert part(fatal_step=random.Random(4).randrange(3, 12)) == -signal.SIGKILL
    before = checkpoint.load(last)
    assert part(fatal_save=3) == -signal.SIGKILL
    assert len(list(parts.glob(".*.partial"))) == 1
    after = checkpoint.load(last)
    assert 3 * after.epoch + after.step == 3 * before.epoch + before.step + 2
    assert part() == 0
    assert heard == whole.heard and outcome(parts) == outcome(tmp_path / "whole")
