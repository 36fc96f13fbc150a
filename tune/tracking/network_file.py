"""What MLflow hands to torch.load for a checkpoint logged as a model: the file opens as its
network, ready to classify.

A logged model's data/model.pth is the run's own checkpoint file, not a second copy in another
format; pickle_module_info.txt beside it names this module. As in `rbnn.checkpoint.load`, nothing in
the file is executed: it holds tensors and plain values.
"""

from __future__ import annotations

from typing import Any

from torch import _weights_only_unpickler as weights_only
from torch import nn

from rbnn.errors import CheckpointError


class Unpickler(weights_only.Unpickler):
    """torch.load's unpickler, whose `load` returns the network of a checkpoint in place of the
    dict.
    """

    def load(self) -> nn.Module:
        return network_of(super().load())


def load(file: Any, **options: Any) -> Any:
    """For torch.load's older file formats, which no checkpoint of ours has."""
    return weights_only.load(file, **options)


def network_of(content: Any) -> nn.Module:
    """The network of a checkpoint's content, in evaluation mode; CheckpointError where it is not
    one of ours.
    """
    from rbnn.models import build
    from rbnn.recipe import FIELDS

    if not isinstance(content, dict) or not content.get("recipe") or "state_dict" not in content:
        raise CheckpointError(
            "the logged model holds no checkpoint with its recipe; load the file with rbnn evaluate"
        )
    recipe = {
        name: content["recipe"].get(name, FIELDS[name].default)
        for name in ("model", "dataset", "a32", "semantics")
    }
    network = build(
        recipe["model"], recipe["dataset"], recipe["a32"], semantics=recipe["semantics"]
    )
    network.load_state_dict(content["state_dict"])
    return network.eval()
