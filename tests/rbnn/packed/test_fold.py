"""A packed network computes the trained one's bits, signs at ties and constant images among it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rbnn.errors import RequestError
from rbnn.layers import RotatedConv2d
from rbnn.models import MODELS
from rbnn.packed.fold import float_twin, fold
from rbnn.packed.layers import BinaryConv2d

DATASET = {32: "cifar10", 224: "imagenet"}


@pytest.mark.parametrize("a32", [False, True])
@pytest.mark.parametrize(("name", "size"), MODELS)
def test_a_packed_network_gives_the_trained_ones_logits_to_the_bit(
    name: str, size: int, a32: bool, network: Callable[..., nn.Module]
) -> None:
    model = network(name, DATASET[size], a32)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(fold(model)(images), model(images))


@pytest.mark.parametrize(("name", "size"), [("resnet18_1w1a", 32), ("vgg_small_1w1a", 32)])
def test_a_float_network_of_the_same_shape_folds_too(
    name: str, size: int, network: Callable[..., nn.Module]
) -> None:
    twin = float_twin(network(name, DATASET[size])).double()
    assert not any(isinstance(layer, RotatedConv2d) for layer in twin.modules())
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fold(twin)(images), twin(images), rtol=0, atol=1e-8)


def packed_layer(weight: Tensor, a32: bool = False) -> BinaryConv2d:
    num_out, num_in, kernel_size, _ = weight.shape
    layer = BinaryConv2d(num_in, num_out, kernel_size, 1, 1, a32=a32)
    layer.set_weight(weight)
    return layer


@pytest.mark.parametrize("a32", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, -1.0 / 3, 1e-8])
def test_constant_images_and_ties_are_positive_as_in_training(value: float, a32: bool) -> None:
    torch.manual_seed(0)
    trained = RotatedConv2d(7, 8, 3, padding=1, a32=a32)
    trained.alpha.data.fill_(1.0)
    layer = packed_layer(trained.binary_weight().detach(), a32)
    constant = torch.full((2, 7, 9, 9), value)
    tied = torch.tensor([-1.0, 0.0, 1.0]).repeat(2, 7, 9, 3)
    for x in (constant, tied):
        torch.testing.assert_close(layer(x), trained(x).detach(), rtol=0, atol=1e-5 * a32)


def test_weights_that_change_are_used_at_once() -> None:
    x, weight = torch.randn(1, 8, 4, 4), torch.ones(8, 8, 3, 3)
    layer = packed_layer(weight)
    before = layer(x)
    layer.bits.zero_()
    assert torch.equal(layer(x), -before)


def test_a_layer_that_nothing_normalises_is_refused_in_one_line() -> None:
    bare = nn.Sequential(RotatedConv2d(3, 4, 3), nn.ReLU())
    for model, message in ((bare, "no package holds"), (bare[:1], "no batch normalisation")):
        with pytest.raises(RequestError, match=message):
            fold(model)
