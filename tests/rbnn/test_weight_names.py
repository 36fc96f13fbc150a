"""A file's weights are put into the network they are of, whatever the names, into no other."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rbnn.checkpoint import Checkpoint, load, load_weights, state_digest
from rbnn.errors import CheckpointError
from rbnn.models import build

STATE_DICTS = json.loads((Path(__file__).parents[1] / "data" / "state_dicts.json").read_text())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1234)
    return build("resnet20_1w1a", "digits")


def refusal(model: nn.Module, weights: dict[str, torch.Tensor]) -> str:
    """The line that refuses the weights, which leaves the model as it was."""
    before = state_digest(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, Checkpoint(weights), "a.ckpt")
    assert "\n" not in str(caught.value) and state_digest(model) == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "dataset"),
    [("resnet18_1w1a", "digits"), ("vgg_small_1w1a", "digits"), ("resnet20_1w1a", "cifar100")],
)
def test_another_networks_weights_are_refused(model: str, dataset: str, network: nn.Module) -> None:
    message = refusal(build(model, dataset), network.state_dict())
    assert re.match(r"checkpoint 'a\.ckpt' is of another network: '.*' and \d+ more ent", message)


def test_wrapped_blocks_and_missing_counts_are_this_network(network: nn.Module) -> None:
    weights = {
        name.replace("layer1.0.", "layer1._orig_mod.0._checkpoint_wrapped_module."): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    other = build("resnet20_1w1a", "digits")
    load_weights(other, Checkpoint(weights), "a.ckpt")
    assert state_digest(other) == state_digest(network)


@pytest.mark.parametrize("rename", [lambda name: f"a.{name}", lambda name: name], ids=["a.", ""])
def test_a_network_beside_one_is_refused(network: nn.Module, rename: Callable[[str], str]) -> None:
    weights = network.state_dict()
    both = {rename(name): tensor for name, tensor in weights.items()} | {"b.scale": torch.ones(1)}
    assert "is of another network" in refusal(build("resnet20_1w1a", "digits"), both)


def test_values_that_are_not_finite_are_refused(network: nn.Module) -> None:
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights["conv1.weight"][0, 0, 0] = torch.tensor([float("nan"), float("inf"), 1.0])
    weights["layer3.2.bn2.running_var"][5] = -float("inf")
    assert refusal(build("resnet20_1w1a", "digits"), weights).startswith(
        "checkpoint 'a.ckpt' holds 3 values that are not finite, in 'conv1.weight' and 1 more"
    )


PREFIXES = ["_orig_mod.", "module._orig_mod.", "net.student._orig_mod."]


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        *itertools.product(STATE_DICTS, ["", "module."]),
        *itertools.product(["cifar/resnet20_1w1a"], PREFIXES),
    ],
)
def test_the_authors_files_load_with_any_prefix(key: str, prefix: str, tmp_path: Path) -> None:
    """Unused layers called bn3 go, vgg_small's own bn3 stays; `epoch` may be anything."""
    family, name = key.split("/")
    shapes = STATE_DICTS[key]["state_dict"]
    given = {entry: torch.full(shape, 0.5) for entry, shape in shapes.items()}
    unused = {}
    if "bn3.weight" not in given:
        for entry in ("weight", "bias", "running_mean"):
            unused |= {f"{where}bn3.{entry}": torch.ones(16) for where in ("", "layer1.0.")}
    weights = {f"{prefix}{entry}": tensor for entry, tensor in (given | unused).items()}
    file = tmp_path / "checkpoint.pth.tar"
    epoch = 1000 if prefix else None
    torch.save({"epoch": epoch, "state_dict": weights, "best_prec1": torch.tensor(59.55)}, file)
    with torch.device("meta"):
        model = build(name, "imagenet" if family == "imagenet" else "cifar10")
    model.to_empty(device="cpu")
    state = load(file)
    assert (state.epoch, state.optimizer, state.recipe) == (epoch or 0, {}, {})
    load_weights(model, state, tmp_path)
    for entry, value in model.state_dict().items():
        assert torch.equal(value, given[entry].to(value.dtype)), entry
