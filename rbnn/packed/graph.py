"""A network's forward as a list of steps, which folding and the exporters go through."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch.fx
from torch import nn
from torch.nn import functional as F

from rbnn.errors import RequestError
from rbnn.layers import RotatedConv2d
from rbnn.packed.layers import Affine, BinaryConv2d

LEAVES = (nn.Conv2d, BinaryConv2d, Affine)
MODULES: dict[type[nn.Module], str] = {
    BinaryConv2d: "binary_conv",
    Affine: "affine",
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    RotatedConv2d: "rotated_conv",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm1d: "batch_norm",
}
FUNCTIONS: dict[Any, str] = {
    F.hardtanh: "hardtanh",
    F.max_pool2d: "max_pool",
    F.avg_pool2d: "avg_pool",
    F.pad: "pad_channels",
    operator.add: "add",
    operator.getitem: "every_second",
    "mean": "mean",
    "flatten": "flatten",
}
USUAL = {  # what calls may say of themselves that the exporters take for granted
    "min_val": -1.0, "max_val": 1.0, "inplace": False,
    "mode": "constant", "value": None,
    "dilation": 1, "ceil_mode": False, "return_indices": False,
}  # fmt: skip
EVERY_SECOND = (slice(None), slice(None), slice(None, None, 2), slice(None, None, 2))


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module) -> torch.fx.Graph:
    """The forward of `model` as torch.fx sees it: one node for each operation that MODULES and
    FUNCTIONS name, and for identities.
    """
    return _Tracer().trace(model)


def kind_of(node: torch.fx.Node, model: nn.Module) -> str:
    """The name of what a node does; "same" where it gives what it takes. RequestError for an
    operation that no form of a package knows.
    """
    if node.op in ("placeholder", "output"):
        return node.op
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        found = "same" if isinstance(module, nn.Identity) else MODULES.get(type(module))
    else:
        found = "same" if node.target == "to" else FUNCTIONS.get(node.target)
    if found == "every_second" and node.args[1] != EVERY_SECOND:
        found = None
    if found is None:
        raise RequestError(
            f"{type(model).__name__} computes '{node.name}' ({node.target}), which no package "
            f"holds; add it to rbnn/packed/graph.py and to the exporters"
        )
    return found


def walk(model: nn.Module, image: Any, emitters: dict[str, Callable[..., Any]]) -> Any:
    """The output of a network made with other means: `emitters` by kind take the inputs so far and
    what the step needs (its module, or the call's own arguments).
    """
    made: dict[torch.fx.Node, Any] = {}
    for node in traced(model).nodes:
        kind = kind_of(node, model)
        inputs = [made[given] for given in node.all_input_nodes]
        if kind == "output":
            return inputs[0]
        if kind == "placeholder":
            made[node] = image
        elif kind == "same":
            made[node] = inputs[0]
        elif node.op == "call_module":
            made[node] = emitters[kind](*inputs, model.get_submodule(str(node.target)))
        else:
            said = {key: value for key, value in node.kwargs.items() if not _is_usual(key, value)}
            made[node] = emitters[kind](*inputs, *node.args[len(inputs) :], **said)
    raise AssertionError("a graph ends in its output")


def _is_usual(key: str, value: object) -> bool:
    return key in USUAL and USUAL[key] == value
