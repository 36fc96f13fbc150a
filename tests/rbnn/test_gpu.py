"""The same guarantees on a CUDA device; every test here is marked `gpu` and skips, saying so, where
there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rbnn import graphs
from rbnn.binarize import set_surrogate
from rbnn.data import open_loaders
from rbnn.data.loading import Batch
from rbnn.distributed import World
from rbnn.engine import LAST, fit, rotate_and_broadcast, start, train_epoch
from rbnn.graphs import WARM_UPS
from rbnn.layers import RotatedConv2d
from rbnn.polar import newton_schulz, newton_schulz_in_one
from rbnn.recipe import Recipe
from rbnn.rotation import bi_rotation_update, objective, orthogonality_error
from rbnn.step import take_step

pytestmark = pytest.mark.gpu
RECIPE = Recipe(
    dataset="digits", epochs=3, batch_size=256, Tmin=0.3, Tmax=3, rotation_update=2, threads=1
)


def trained(
    directory: Path, resume: Path | None = None, recipe: Recipe = RECIPE
) -> list[dict[str, Any]]:
    device = torch.device("cuda", 0)
    heard: list[dict[str, Any]] = []
    loaders = open_loaders(recipe, device)
    fit(
        recipe,
        loaders,
        lambda metrics, _: heard.append(metrics),
        device=device,
        directory=directory,
        resume=resume,
    )
    of_the_machine = ("time/", "gpu/")
    return [
        {name: value for name, value in metrics.items() if not name.startswith(of_the_machine)}
        for metrics in heard
    ]


def test_one_recipe_gives_the_same_bits_twice(tmp_path: Path) -> None:
    assert trained(tmp_path / "a") == trained(tmp_path / "b")


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")

    class Killed(Exception):
        pass

    def stop(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        raise Killed

    device = torch.device("cuda", 0)
    with pytest.raises(Killed):
        fit(RECIPE, open_loaders(RECIPE, device), stop, device=device, directory=tmp_path / "cut")
    assert (
        trained(tmp_path / "cut", resume=tmp_path / "cut" / LAST) == whole
    )  # the epoch that nobody heard is reported again


def test_a_run_resumed_within_an_epoch_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = RECIPE.replace(batch_size=64, checkpoint_steps=3, print_freq=1)
    whole = trained(tmp_path / "whole", recipe=recipe)

    class Killed(Exception):
        pass

    def stop(epoch: int, step: int, num_steps: int) -> None:
        if (epoch, step) == (1, 5):
            raise Killed

    device = torch.device("cuda", 0)
    with pytest.raises(Killed):
        loaders = open_loaders(recipe, device)
        fit(
            recipe,
            loaders,
            lambda *heard: None,
            device=device,
            directory=tmp_path / "cut",
            progress=stop,
        )
    assert trained(tmp_path / "cut", resume=tmp_path / "cut" / LAST, recipe=recipe) == whole


def test_a_captured_step_is_the_eager_one_within_rounding() -> None:
    device = torch.device("cuda", 0)
    recipe = RECIPE.replace(batch_size=64)
    eager, captured = (start(recipe.replace(compile=how), device) for how in ("off", "on"))
    batches = [*islice(open_loaders(recipe, device).train.epoch(0), WARM_UPS + 3)]
    for batch in batches:
        eager.model.load_state_dict(captured.model.state_dict())
        eager.optimizer.load_state_dict(deepcopy(captured.optimizer.state_dict()))
        before = parameters_to_vector(captured.model.parameters()).detach()
        changes = []
        for run in (eager, captured):
            run.network.train()
            take_step(run, batch)
            changes.append(parameters_to_vector(run.model.parameters()).detach() - before)
        assert float((changes[1] - changes[0]).norm()) <= 0.01 * float(changes[0].norm())
    assert captured.captured(batches[0].make, take_step).graphs


def test_captured_steps_give_the_bits_of_those_that_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = RECIPE.replace(batch_size=64, compile="on")
    captured = trained(tmp_path / "captured", recipe=recipe)
    monkeypatch.setattr(graphs, "WARM_UPS", 10**9)
    assert trained(tmp_path / "compiled", recipe=recipe) == captured


def test_the_layer_computes_what_it_computes_on_a_cpu() -> None:
    layer = RotatedConv2d(16, 32, 3, stride=2, padding=1).double()
    set_surrogate(layer, 0.3, 1 / 0.3)
    with torch.no_grad():
        layer.rotate.fill_(0.7)
    x = torch.randn(4, 16, 8, 8, dtype=torch.float64)
    grad = torch.randn(4, 32, 4, 4, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        layer = layer.to(device)
        given = x.to(device, copy=True).requires_grad_()
        y = layer(given)
        grads = torch.autograd.grad(y, (given, layer.weight), grad.to(device))
        found.append([tensor.detach().cpu() for tensor in (y, *grads)])
    for on_cpu, on_gpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-9, atol=1e-9)


def test_the_rotation_update_raises_the_objective_and_stays_orthogonal() -> None:
    X = torch.randn(64, 24, 24, device="cuda")
    R1 = R2 = torch.eye(24, device="cuda")
    before = objective(X, R1, R2)
    R1, R2 = bi_rotation_update(X, R1, R2)
    assert objective(X, R1, R2) > before
    assert orthogonality_error(R1) < 1e-5
    assert orthogonality_error(R2) < 1e-5


@pytest.mark.parametrize("n", [1, 12, 24, 36, 64])
def test_one_kernel_finds_the_polar_factors_that_products_find(n: int) -> None:
    D, near = torch.randn(3, n, n, device="cuda"), torch.eye(n, device="cuda").repeat(3, 1, 1)
    found = newton_schulz_in_one(D, near)
    torch.testing.assert_close(found, newton_schulz(D, near), rtol=1e-5, atol=1e-5)
    assert max(orthogonality_error(one) for one in found) < 1e-6


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "tf32"}, {"precision": "bf16"}, {"compile": "on"}], ids=str
)
def test_no_step_of_an_epoch_waits_for_the_host(changes: dict[str, Any]) -> None:
    device = torch.device("cuda", 0)
    recipe = RECIPE.replace(batch_size=64, **changes)
    loaders = open_loaders(recipe, device)
    num_batches = loaders.train.num_batches

    def guarded() -> Iterator[Batch]:
        """From the fourth step (compiled code has been captured) to the one before the last, a wait
        is an error.
        """
        for step, batch in enumerate(loaders.train.epoch(0)):
            torch.cuda.set_sync_debug_mode("error" if 3 <= step < num_batches - 2 else "default")
            yield batch

    run = start(recipe, device)
    try:
        train_epoch(run, guarded(), num_batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_rotation_update_of_a_network_waits_for_nothing() -> None:
    run = start(RECIPE, torch.device("cuda", 0))
    rotate_and_broadcast(run.network, World())
    torch.cuda.set_sync_debug_mode("error")
    try:
        rotate_and_broadcast(run.network, World())
    finally:
        torch.cuda.set_sync_debug_mode("default")
