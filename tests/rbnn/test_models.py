"""Conformance over every entry of MODELS, and the reference networks: names and shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rbnn.datasets import DATASETS
from rbnn.errors import RecipeError
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.models import MODELS, build, names_for
from rbnn.weights import weights_given

STATE_DICTS = json.loads((Path(__file__).parents[1] / "data" / "state_dicts.json").read_text())
each_model = pytest.mark.parametrize(("name", "size"), MODELS, ids=lambda value: str(value))


def dataset_of(size: int) -> str:
    return next(name for name, spec in DATASETS.items() if spec.image_size == size)


def images(size: int, num: int = 2) -> Tensor:
    """The networks for 224 x 224 pool globally: 64 x 64 pixels exercise every layer."""
    return torch.randn(num, 3, min(size, 64), min(size, 64))


def awake(model: nn.Module) -> nn.Module:
    """Batch normalisation away from its tiny initial weights: every layer acts on the logits."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@each_model
@pytest.mark.parametrize("a32", [False, True])
def test_forward_and_backward_reach_every_parameter(name: str, size: int, a32: bool) -> None:
    dataset = dataset_of(size)
    model = awake(build(name, dataset, a32=a32))
    assert {layer.a32 for layer in rotated_layers(model).values()} == {a32}
    logits = model(images(size))
    assert logits.shape == (2, DATASETS[dataset].num_classes)
    logits.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name


@each_model
def test_layout_and_frozen_weights_do_not_matter_to_an_evaluation(name: str, size: int) -> None:
    model = awake(build(name, dataset_of(size))).double().eval()
    x = images(size).double()
    with torch.no_grad():
        expected = model(x)
        with weights_given([*rotated_layers(model).values()]):
            assert torch.equal(model(x), expected)
        model.to(memory_format=torch.channels_last)
        actual = model(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_model
def test_the_seed_decides_the_initial_network(name: str, size: int) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build(name, dataset_of(size)).state_dict())
    first, same, other = states
    for key, value in first.items():
        assert torch.equal(value, same[key]), key
        if key.endswith((".R1", ".R2", "conv1.weight", "linear.weight")):
            assert not torch.equal(value, other[key]), key


@pytest.mark.parametrize("key", STATE_DICTS)
def test_state_dict_names_and_shapes_are_the_reference_ones(key: str) -> None:
    family, name = key.split("/")
    want = STATE_DICTS[key]
    model = build(name, "imagenet" if family == "imagenet" else "cifar10")
    shapes = {entry: list(value.shape) for entry, value in model.state_dict().items()}
    assert shapes == want["state_dict"]
    assert sum(value.numel() for value in model.parameters()) == want["trainable_parameters"]
    assert len(rotated_layers(model)) == want["binary_layers"]


def is_asleep(name: str, size: int) -> bool:
    """Whether batch normalisation starts next to 0."""
    return name.startswith("resnet") and (name, size) != ("resnet18_1w1a", 32)


def weight_std(name: str, size: int, layer: RotatedConv2d) -> float:
    """Of initial weights, as documented: by the inputs, in VGG by the outputs, or torch's own."""
    fan_in, fan_out = layer.weight[0].numel(), layer.kernel_size[0] ** 2 * layer.out_channels
    if is_asleep(name, size):
        return (2 / fan_in) ** 0.5
    return (2 / fan_out) ** 0.5 if "vgg" in name else (3 * fan_in) ** -0.5


@each_model
def test_initialisation_is_the_documented_one(name: str, size: int) -> None:
    for module in build(name, dataset_of(size)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == (1e-8 if is_asleep(name, size) else 1.0))
            assert torch.count_nonzero(module.bias) == 0
        if isinstance(module, RotatedConv2d):
            std, weight = weight_std(name, size, module), module.weight.detach()
            assert float(weight.std()) == pytest.approx(std, rel=0.1)
            alpha = 0.5 * weight[0].numel() ** -0.5
            assert float(module.alpha.detach().mean()) == pytest.approx(alpha, rel=0.05)
            assert bool((module.rotate == math.pi / 2).all())


def test_semantics_reaches_every_layer() -> None:
    model = build("resnet20_1w1a", "cifar10", semantics="through_rotation")
    assert {layer.semantics for layer in rotated_layers(model).values()} == {"through_rotation"}


SMALL = "resnet18_1w1a, resnet20_1w1a, resnet20_bireal_1w1a or vgg_small_1w1a"
LARGE = "resnet18_1w1a or resnet34_1w1a"


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("resnet21", "cifar10", f"model 'resnet21' is unknown for cifar10; choose {SMALL}"),
        ("resnet20", "imagenet", f"model 'resnet20' is unknown for imagenet; choose {LARGE}"),
        ("resnet20", "cifar1000", "dataset 'cifar1000' is unknown; choose cifar100, cifar10"),
    ],
)
def test_an_unknown_model_or_dataset_is_one_line(name: str, dataset: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        build(name, dataset)
    assert str(error.value) == message


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_has_its_default_among_its_models_and_they_its_classes(dataset: str) -> None:
    assert DATASETS[dataset].default_model in names_for(dataset)
    for name in names_for(dataset):
        with torch.device("meta"):
            modules = build(name, dataset).modules()
        (last,) = (module for module in modules if isinstance(module, nn.Linear))
        assert last.out_features == DATASETS[dataset].num_classes
