"""A run that is killed, wherever, and continued ends with the bits of one that was not: with every
loader, for good too.
"""

from __future__ import annotations

import dataclasses
import importlib.util
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
from rbnn.data import LOADERS, digits, open_loaders
from rbnn.data.loading import Loaders
from rbnn.data.source import Source
from rbnn.engine import BEST, LAST, fit
from rbnn.recipe import Recipe

pytestmark = pytest.mark.usefixtures("settings_put_back")

HAS_DALI = (
    importlib.util.find_spec("nvidia") is not None
    and importlib.util.find_spec("nvidia.dali") is not None
)
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
KINDS = [pytest.param(kind, marks=needs_dali if kind == "dali" else ()) for kind in LOADERS]
# Seven epochs of three steps: 0 to 4 in the warm-up, rotations updated in 0, 2, 4, 6, a milestone
# at 5.
RECIPE = Recipe(
    dataset="digits",
    epochs=7,
    batch_size=8,
    batch_size_test=16,
    Tmin=0.3,
    Tmax=3,
    warm_up=True,
    rotation_update=2,
    lr_type="step",
    lr_decay_step=(5,),
    workers=1,
    threads=1,
    print_freq=1,
)
NUM_TRAIN, NUM_VAL = 24, 17
Outcome = Callable[[Path], list[str]]


class Interrupted(Exception):
    """What ends a run early in these tests."""


def few(source: Source) -> Source:
    train, val = (
        split.subset(list(range(num)))
        for split, num in ((source.train, NUM_TRAIN), (source.val, NUM_VAL))
    )
    return dataclasses.replace(source, train=train, val=val)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    source = few(digits.read())
    monkeypatch.setattr(digits, "read", lambda: source)


def loaders_of(recipe: Recipe) -> Loaders:
    return open_loaders(recipe, torch.device("cpu"))


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


class Listener:
    """A `report` and `progress` that notes an epoch's metrics, which must not change when heard
    again, and may raise.

    at: (epoch, step) after which the run is interrupted; step None: when the epoch's metrics are
    about to be heard.
    """

    def __init__(
        self,
        at: tuple[int, int | None] | None = None,
        heard: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        self.at = at
        self.heard = {} if heard is None else heard

    def __call__(self, metrics: dict[str, Any], path: Path | None) -> None:
        if self.at == (metrics["epoch"], None):
            raise Interrupted
        plain = without_times(metrics)
        assert self.heard.setdefault(metrics["epoch"], plain) == plain

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        if self.at == (epoch, step):
            raise Interrupted


def bomb(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, when: Callable[..., bool]
) -> None:
    """Interrupt the run right after the first call of `owner.name` for which `when(arguments)`
    holds.
    """
    known = getattr(owner, name)

    def then_interrupted(*arguments: Any) -> None:
        known(*arguments)
        if when(*arguments):
            monkeypatch.setattr(owner, name, known)
            raise Interrupted

    monkeypatch.setattr(owner, name, then_interrupted)


@pytest.fixture(scope="module")
def wholes() -> dict[str, tuple[dict[int, dict[str, Any]], list[str]]]:
    """By loader: what the uninterrupted run reported, and what it left."""
    return {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [1, 0], ids=lambda n: f"checkpoint_steps {n}")
def test_an_interrupted_run_ends_with_the_same_bits(
    kind: str,
    every: int,
    wholes: dict[str, Any],
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the warm-up, at a rotation update, after a milestone; between best.ckpt and last.ckpt;
    before an epoch is heard.
    """
    recipe = RECIPE.replace(use_dali=True) if kind == "dali" else RECIPE.replace(loader=kind)
    if kind not in wholes:
        listener = Listener()
        fit(recipe, loaders_of(recipe), listener, directory=tmp_path / "whole")
        wholes[kind] = listener.heard, outcome(tmp_path / "whole")
    parts, last, heard = tmp_path / "parts", tmp_path / "parts" / LAST, {}
    again = recipe.replace(checkpoint_steps=every)

    def until(at: tuple[int, int | None] | None = None) -> None:
        listener = Listener(at, heard)
        resume = last if last.exists() else None
        fit(
            again,
            loaders_of(again),
            listener,
            directory=parts,
            resume=resume,
            progress=listener.progress,
        )

    def interrupted(at: tuple[int, int | None] | None = None) -> None:
        with pytest.raises(Interrupted):
            until(at)
        torch.rand(3)  # what happens elsewhere must not matter

    interrupted((0, 1))
    assert last.exists() == (every == 1)
    bomb(monkeypatch, checkpoint, "link", when=lambda source, target: True)
    interrupted()
    assert checkpoint.load(parts / BEST).epoch == 1 and (
        not last.exists() or checkpoint.load(last).epoch == 0
    )
    interrupted((1, 2))
    state = checkpoint.load(last)
    assert (state.epoch, state.step) == (1, 2 * every)
    bomb(
        monkeypatch,
        engine,
        "rotate_and_broadcast",
        when=lambda network, world: checkpoint.load(last).epoch == 2,
    )
    interrupted()
    interrupted((2, None))
    assert max(heard) == 1 and checkpoint.load(last).epoch == 3
    interrupted((5, 2))
    until()
    assert (heard, outcome(parts)) == wholes[kind]


SCRIPT = """
import io, json, os, signal, sys
from pathlib import Path
import torch
from rbnn.data import digits, open_loaders
from rbnn.engine import LAST, fit
from rbnn.recipe import Recipe
import dataclasses

recipe, folder, fatal_save = Recipe(**json.loads(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
source = digits.read()
train, val = source.train.subset(list(range(24))), source.val.subset(list(range(17)))
digits.read = lambda: dataclasses.replace(source, train=train, val=val)
save, saves = torch.save, []


def killed_in_writing(content, file):
    saves.append(content)
    if len(saves) == fatal_save:
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, file)


torch.save = killed_in_writing
last = folder / LAST
fit(
    recipe,
    open_loaders(recipe, torch.device("cpu")),
    lambda metrics, path: print(json.dumps(metrics), flush=True),
    directory=folder,
    resume=last if last.exists() else None,
    progress=lambda *where: print("step", *where, flush=True),
)
"""


def test_sigkill_at_any_moment_and_in_the_middle_of_writing(
    outcome: Outcome, tmp_path: Path
) -> None:
    """The process is killed for good: some time after a seeded number of steps, and half-way
    through a checkpoint.
    """
    recipe, listener, heard = RECIPE.replace(loader="resident"), Listener(), {}
    fit(recipe, loaders_of(recipe), listener, directory=tmp_path / "whole")
    parts, last = tmp_path / "parts", tmp_path / "parts" / LAST
    arguments = [json.dumps(recipe.replace(checkpoint_steps=1).to_dict()), str(parts)]

    def part(fatal_step: int = 0, fatal_save: int = 0) -> int:
        command = [sys.executable, "-c", SCRIPT, *arguments, str(fatal_save)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout and process.stderr
            for line in process.stdout:
                if not line.startswith("step"):
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
    assert heard == listener.heard
    assert outcome(parts) == outcome(tmp_path / "whole")
