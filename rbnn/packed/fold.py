"""From a trained network to what inference needs: binary weights as bits, each batch normalisation
as a scale and a shift.

Nothing moves to where it would be rounded otherwise, so the packed network gives the trained one's
logits to the bit: y alpha = y' |alpha| exactly, where y' has the filters of a negative alpha
negated, and stays so behind a max pooling. A float network has no signs to hold, and its batch
normalisations go into the weights and biases of the convolution before or the linear layer behind.
"""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.errors import RequestError
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.packed.graph import kind_of, traced
from rbnn.packed.layers import Affine, BinaryConv2d


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A packed copy of `model` for evaluation, in its dtype; on the meta device without values.

    Raises RequestError where a layer is not followed by what folding knows.
    """
    model = copy.deepcopy(model).eval()
    is_float = not rotated_layers(model)
    for node in list(traced(model).nodes):
        if kind_of(node, model) == "batch_norm":
            _fold_norm(model, node, is_float)
    left = rotated_layers(model)
    if left:
        raise RequestError(
            f"{type(model).__name__}: '{next(iter(left))}' cannot be packed, as no batch "
            "normalisation follows it alone (a max pooling may stand between)"
        )
    return model.requires_grad_(False)


def float_twin(model: nn.Module) -> nn.Module:
    """The full-precision network of the same shape, its latent weights in plain convolutions."""
    model = copy.deepcopy(model)
    for name, layer in rotated_layers(model).items():
        kernel_size, stride, padding = _window(layer)
        conv = nn.Conv2d(
            layer.in_channels, layer.out_channels, kernel_size, stride, padding,
            bias=False, device=layer.weight.device,
        )  # fmt: skip
        conv.weight = layer.weight
        model.set_submodule(name, conv)
    return model


def _fold_norm(model: nn.Module, node: torch.fx.Node, is_float: bool) -> None:
    """Replace the batch normalisation of a step, and the layer that takes it in."""
    name = str(node.target)
    norm = model.get_submodule(name)
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    scale, shift = _scale_and_shift(norm)
    source, users = node.all_input_nodes[0], list(node.users)
    is_pooled = kind_of(source, model) == "max_pool" and len(source.users) == 1
    if is_pooled:
        source = source.all_input_nodes[0]
    kind = kind_of(source, model) if len(source.users) == 1 else ""
    layer = model.get_submodule(str(source.target)) if source.op == "call_module" else None
    rest: nn.Module = nn.Identity()
    if isinstance(layer, RotatedConv2d) and kind == "rotated_conv":
        binary = _binary(layer)
        model.set_submodule(str(source.target), binary)
        rest = Affine(scale, shift, binary)
    elif is_float and isinstance(layer, nn.Conv2d) and kind == "conv" and not is_pooled:
        _scale_outputs(layer, scale, shift)
    elif is_float and len(users) == 1 and kind_of(users[0], model) == "linear":
        _scale_inputs(model.get_submodule(str(users[0].target)), scale, shift)
    else:
        rest = Affine(scale, shift)
    model.set_submodule(name, rest)


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What torch multiplies with and adds: what it gives for 1 without mean and bias, and for 0."""
    mean, variance, bias = norm.running_mean, norm.running_var, norm.bias
    assert mean is not None and variance is not None
    none, weight, eps = torch.zeros_like(mean), norm.weight, norm.eps
    scale = F.batch_norm(none[None] + 1, none, variance, weight, none, eps=eps)
    return scale[0], F.batch_norm(none[None], mean, variance, weight, bias, eps=eps)[0]


def _window(layer: RotatedConv2d) -> tuple[int, int, int]:
    return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])


def _binary(layer: RotatedConv2d) -> BinaryConv2d:
    """The layer's bits and |alpha|, the filters of negative alphas negated."""
    kernel_size, stride, padding = _window(layer)
    packed = BinaryConv2d(
        layer.in_channels, layer.out_channels, kernel_size, stride, padding,
        a32=layer.a32, device=layer.weight.device,
    )  # fmt: skip
    packed.set_weight(torch.where(layer.alpha[..., None] < 0, -1.0, 1.0) * layer.binary_weight())
    packed.alpha = layer.alpha.detach().flatten().abs()
    return packed


def _scale_outputs(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    bias = 0.0 if conv.bias is None else conv.bias * scale
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(shift + bias)


def _scale_inputs(linear: nn.Module, scale: Tensor, shift: Tensor) -> None:
    assert isinstance(linear, nn.Linear)
    linear.bias = nn.Parameter(linear.bias + linear.weight @ shift)
    linear.weight = nn.Parameter(linear.weight * scale)
