"""Networks against reference outputs in float64: evaluation, gradients, two training steps."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_the_reference_does(name: str) -> None:
    with np.load(DATA / "networks.npz") as file:
        ref = {key.removeprefix(f"cifar__{name}__"): file[key] for key in file.files}
    rng = np.random.default_rng(20260101)
    x = torch.as_tensor(rng.normal(size=(4, 3, 32, 32)))
    y = torch.as_tensor(rng.integers(0, 10, 4))
    state = {key: filled(key, tuple(shape)) for key, shape in NETWORKS[name]["state_dict"].items()}

    def assert_close(actual: object, wanted: str) -> None:
        expected = ref[wanted]
        difference = np.abs(np.asarray(actual) - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max(), wanted

    for a32, wanted in ((True, "eval_logits_a32"), (False, "eval_logits")):
        model = build(name, "cifar10", a32=a32).double().eval()
        model.load_state_dict(state)
        set_surrogate(model, float(ref["t"]), float(ref["k"]))
        assert_close(model(x).detach(), wanted)
    model.train()
    hyper = {key: float(ref[key]) for key in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(model.parameters(), **hyper)
    for layer in rotated_layers(model).values():
        layer.update_rotation()
    losses = []
    for step in range(2):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = {key: float(value.grad.norm()) for key, value in model.named_parameters()}
            assert_close([norms[key] for key in ref["grad_names"]], "grad_norms")
        optimizer.step()
        losses.append(loss.item())
    assert_close(losses, "losses")
    assert_close(model.eval()(x).detach(), "final_logits")
