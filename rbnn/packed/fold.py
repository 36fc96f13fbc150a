"""From a trained network to what inference needs: binary weights as bits, alpha and batch
normalisation folded.

gamma, beta, mu, var: a batch normalisation's; s = gamma / sqrt(var + eps).
    rotated convolution, batch normalisation
        y alpha s + (beta - mu s) = y' |alpha| s + (beta - mu s), where y' has the filters of a
        negative alpha negated: so the whole goes behind a max pooling that stands between them
    float convolution, batch normalisation      into the convolution's weight and bias
    batch normalisation, linear                 into the linear layer's weight and bias
"""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import Tensor, nn

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
    for node in list(traced(model).nodes):
        if kind_of(node, model) == "batch_norm":
            _fold_norm(model, node)
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


def _fold_norm(model: nn.Module, node: torch.fx.Node) -> None:
    """Replace the batch normalisation of a step, and the layer that takes it in."""
    name = str(node.target)
    norm = model.get_submodule(name)
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    dtype, (scale, shift) = norm.weight.dtype, _scale_and_shift(norm)
    source, users = node.all_input_nodes[0], list(node.users)
    is_pooled = kind_of(source, model) == "max_pool" and len(source.users) == 1
    if is_pooled:
        source = source.all_input_nodes[0]
    kind = kind_of(source, model) if len(source.users) == 1 else ""
    layer = model.get_submodule(str(source.target)) if source.op == "call_module" else None
    rest: nn.Module = nn.Identity()
    if isinstance(layer, RotatedConv2d) and kind == "rotated_conv":
        model.set_submodule(str(source.target), _binary(layer))
        rest = _affine(scale * layer.alpha.detach().flatten().abs().double(), shift, dtype)
    elif isinstance(layer, nn.Conv2d) and kind == "conv" and not is_pooled:
        _scale_outputs(layer, scale, shift)
    elif len(users) == 1 and kind_of(users[0], model) == "linear":
        _scale_inputs(model.get_submodule(str(users[0].target)), scale, shift)
    else:
        rest = _affine(scale, shift, dtype)
    model.set_submodule(name, rest)


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(s, beta - mu s), float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _affine(scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Affine:
    affine = Affine(len(scale), scale.device)
    affine.scale, affine.shift = scale.to(dtype), shift.to(dtype)
    return affine


def _window(layer: RotatedConv2d) -> tuple[int, int, int]:
    return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])


def _binary(layer: RotatedConv2d) -> BinaryConv2d:
    """The layer's bits, the filters of negative alphas negated."""
    kernel_size, stride, padding = _window(layer)
    packed = BinaryConv2d(
        layer.in_channels, layer.out_channels, kernel_size, stride, padding,
        a32=layer.a32, device=layer.weight.device,
    )  # fmt: skip
    packed.set_weight(torch.where(layer.alpha[..., None] < 0, -1.0, 1.0) * layer.binary_weight())
    return packed


def _scale_outputs(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    dtype = conv.weight.dtype
    bias = 0.0 if conv.bias is None else conv.bias.double() * scale
    conv.weight = nn.Parameter((conv.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype))
    conv.bias = nn.Parameter((shift + bias).to(dtype))


def _scale_inputs(linear: nn.Module, scale: Tensor, shift: Tensor) -> None:
    assert isinstance(linear, nn.Linear)
    dtype, weight = linear.weight.dtype, linear.weight.double()
    linear.bias = nn.Parameter((linear.bias.double() + weight @ shift).to(dtype))
    linear.weight = nn.Parameter((weight * scale).to(dtype))
