"""Networks against reference outputs in float64: evaluation, gradients, training steps."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbnn.binarize import set_surrogate
from rbnn.layers import rotated_layers
from rbnn.models import build

DATA = Path(__file__).parents[1] / "data"
NETWORKS = {
    key.removeprefix("cifar/"): spec
    for key, spec in json.loads((DATA / "state_dicts.json").read_text()).items()
    if key.startswith("cifar/")
}


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The value that the reference gives an entry of a state dict: of its name and shape alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    ranges = {"running_var": (0.5, 1.5), "alpha": (0.01, 0.1), "rotate": (0.2, 2.8)}
    if leaf == "weight" and len(shape) == 1:
        ranges["weight"] = (0.5, 1.5)
    if leaf in ("R1", "R2"):
        q, r = np.linalg.qr(rng.normal(size=shape))
        return torch.as_tensor(q * np.sign(np.diag(r)))
    if leaf == "num_batches_tracked":
        return torch.zeros(shape)
    if leaf in ranges:
        return torch.as_tensor(rng.uniform(*ranges[leaf], shape))
    return torch.as_tensor(rng.normal(size=shape) * (0.05 if len(shape) == 2 else 0.1))


def assert_close(actual: object, expected: object, tolerance: float) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    difference = np.abs(actual - expected.reshape(actual.shape)).max()
    assert difference <= tolerance * max(np.abs(expected).max(), 1e-6)


def train(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], ref: dict[str, Any]
) -> tuple[list[float], dict[str, float]]:
    """A rotation update and a step on each batch; the losses, and the first gradients' norms."""
    set_surrogate(model, float(ref["t"]), float(ref["k"]))
    hyper = {key: float(ref[key]) for key in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(model.train().parameters(), **hyper)
    for layer in rotated_layers(model).values():
        layer.update_rotation()
    losses, norms = [], {}
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        norms = norms or {key: float(p.grad.norm()) for key, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_the_reference_does(name: str) -> None:
    with np.load(DATA / "networks.npz") as file:
        ref = {key.removeprefix(f"cifar__{name}__"): file[key] for key in file.files}
    rng = np.random.default_rng(20260101)
    x = torch.as_tensor(rng.normal(size=(4, 3, 32, 32)))
    y = torch.as_tensor(rng.integers(0, 10, 4))
    state = {key: filled(key, tuple(shape)) for key, shape in NETWORKS[name]["state_dict"].items()}
    for a32, wanted in ((True, "eval_logits_a32"), (False, "eval_logits")):
        model = build(name, "cifar10", a32=a32).double().eval()
        model.load_state_dict(state)
        set_surrogate(model, float(ref["t"]), float(ref["k"]))
        assert_close(model(x).detach(), ref[wanted], 1e-5)
    losses, norms = train(model, [(x, y)] * 2, ref)
    assert_close([norms[key] for key in ref["grad_names"]], ref["grad_norms"], 1e-5)
    assert_close(losses, ref["losses"], 1e-5)
    assert_close(model.eval()(x).detach(), ref["final_logits"], 1e-5)


@pytest.mark.parametrize("file_name", ["resnet20_trajectory", "resnet20_trajectory_default_init"])
def test_four_training_steps_follow_the_reference(shared_dir: Path, file_name: str) -> None:
    path = shared_dir / "vectors" / f"{file_name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the project")
    with np.load(path) as file:
        ref = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    model = build("resnet20_1w1a", "cifar10").double()
    shapes = model.state_dict()
    model.load_state_dict({key: ref[f"init/{key}"].view_as(shapes[key]) for key in shapes})
    losses, _ = train(model, zip(ref["x"], ref["y"], strict=True), ref)
    assert_close(losses, ref["losses"], 1e-6)
    for key, value in model.state_dict().items():
        assert_close(value, ref[f"final/{key}"], 1e-6)
    assert_close(model.eval()(ref["x"][0]).detach(), ref["eval_logits"], 1e-6)
