"""Conformance over every entry of MODELS, and the reference networks: names, shapes, four training
steps.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbnn.binarize import set_surrogate
from rbnn.datasets import DATASETS
from rbnn.errors import RecipeError
from rbnn.layers import RotatedConv2d, rotated_layers
from rbnn.models import MODELS, build, names_for
from rbnn.rotation import orthogonality_error
from rbnn.weights import weights_given

STATE_DICTS = json.loads((Path(__file__).parents[1] / "data" / "state_dicts.json").read_text())
each_model = pytest.mark.parametrize(("name", "size"), MODELS, ids=lambda value: str(value))


def dataset_of(size: int) -> str:
    return next(name for name, spec in DATASETS.items() if spec.image_size == size)


def images(size: int, num: int = 2) -> Tensor:
    """The networks for 224 x 224 pool globally: 64 x 64 pixels exercise every layer."""
    return torch.randn(num, 3, min(size, 64), min(size, 64))


def awake(model: nn.Module) -> nn.Module:
    """Batch normalisation away from its tiny initial weights, so that every layer acts on the
    logits.
    """
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
def test_channels_last_equals_contiguous(name: str, size: int) -> None:
    model = awake(build(name, dataset_of(size))).double().eval()
    x = images(size).double()
    with torch.no_grad():
        expected = model(x)
        actual = model.to(memory_format=torch.channels_last)(
            x.to(memory_format=torch.channels_last)
        )  # type: ignore[call-overload]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_model
def test_the_rotation_update_changes_every_rotated_layer(name: str, size: int) -> None:
    layers = rotated_layers(build(name, dataset_of(size)))
    for layer_name, layer in layers.items():
        R1, R2 = layer.R1.clone(), layer.R2.clone()
        layer.update_rotation(rounds=1)
        assert not torch.equal(layer.R1, R1) and not torch.equal(layer.R2, R2), layer_name
        assert max(orthogonality_error(layer.R1), orthogonality_error(layer.R2)) < 1e-5, layer_name


@each_model
def test_evaluation_with_frozen_weights_equals_evaluation_without(name: str, size: int) -> None:
    model = awake(build(name, dataset_of(size))).eval()
    x = images(size)
    with torch.no_grad():
        expected = model(x)
        with weights_given([*rotated_layers(model).values()]):
            assert torch.equal(model(x), expected)


@each_model
def test_the_seed_decides_the_initial_network(name: str, size: int) -> None:
    torch.manual_seed(3)
    first = build(name, dataset_of(size)).state_dict()
    torch.manual_seed(3)
    same = build(name, dataset_of(size)).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in first.items())


def test_another_seed_gives_another_network() -> None:
    first, other = (build("resnet20_1w1a", "cifar10").state_dict() for _ in range(2))
    for key, value in first.items():
        if key.endswith((".R1", ".R2", "conv1.weight", "linear.weight")):
            assert not torch.equal(value, other[key]), key


@pytest.mark.parametrize("key", STATE_DICTS)
def test_state_dict_names_and_shapes_are_the_reference_ones(key: str) -> None:
    family, name = key.split("/")
    want = STATE_DICTS[key]
    model = build(name, "imagenet" if family == "imagenet" else "cifar10")
    assert {entry: list(value.shape) for entry, value in model.state_dict().items()} == want[
        "state_dict"
    ]
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == want["trainable_parameters"]
    )
    assert len(rotated_layers(model)) == want["binary_layers"]


@each_model
def test_initialisation_is_the_documented_one(name: str, size: int) -> None:
    model = build(name, dataset_of(size))
    tiny_start = name.startswith("resnet") and (name, size) != ("resnet18_1w1a", 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == (1e-8 if tiny_start else 1.0))
            assert torch.count_nonzero(module.bias) == 0
        if isinstance(module, RotatedConv2d):
            fan_in = module.weight[0].numel()
            fan_out = module.kernel_size[0] ** 2 * module.out_channels
            std = (
                (2 / fan_in) ** 0.5
                if tiny_start
                else (2 / fan_out) ** 0.5
                if "vgg" in name
                else (3 * fan_in) ** -0.5
            )
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=0.1)
            default_alpha = 0.5 * fan_in**-0.5
            assert float(module.alpha.detach().mean()) == pytest.approx(default_alpha, rel=0.05)


def test_semantics_reaches_every_layer() -> None:
    model = build("resnet20_1w1a", "cifar10", semantics="through_rotation")
    assert {layer.semantics for layer in rotated_layers(model).values()} == {"through_rotation"}


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        (
            "resnet21_1w1a",
            "cifar10",
            "model 'resnet21_1w1a' is unknown for cifar10; choose resnet18_1w1a, resnet20_1w1a, "
            "resnet20_bireal_1w1a "
            "or vgg_small_1w1a",
        ),
        (
            "resnet20_1w1a",
            "imagenet",
            "model 'resnet20_1w1a' is unknown for imagenet; choose resnet18_1w1a or resnet34_1w1a",
        ),
        ("resnet20_1w1a", "cifar1000", "dataset 'cifar1000' is unknown; choose cifar100, cifar10"),
    ],
)
def test_an_unknown_model_or_dataset_is_one_line_with_the_remedy(
    name: str, dataset: str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        build(name, dataset)
    assert str(error.value) == message


def test_every_dataset_has_its_default_among_its_models() -> None:
    for name, spec in DATASETS.items():
        assert spec.default_model in names_for(name)


@pytest.mark.parametrize("file_name", ["resnet20_trajectory", "resnet20_trajectory_default_init"])
def test_four_training_steps_follow_the_reference_trajectory(
    shared_dir: Path, file_name: str
) -> None:
    path = shared_dir / "vectors" / f"{file_name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the project")
    with np.load(path) as file:
        ref = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    model = build("resnet20_1w1a", "cifar10").double()
    initial = {
        name.removeprefix("init/"): value for name, value in ref.items() if name.startswith("init/")
    }
    model.load_state_dict(
        {name: initial[name].view_as(value) for name, value in model.state_dict().items()}
    )
    set_surrogate(model, float(ref["t"]), float(ref["k"]))
    hyper = {name: float(ref[name]) for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(model.parameters(), **hyper)
    for layer in rotated_layers(model).values():
        layer.update_rotation()
    losses = []
    for x, y in zip(ref["x"], ref["y"], strict=True):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), ref["losses"], rtol=1e-6, atol=0)
    for name, value in model.state_dict().items():
        expected = ref[f"final/{name}"].view_as(value)
        assert float((value - expected).abs().max()) <= 1e-6 * max(
            float(expected.abs().max()), 1e-6
        ), name
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(ref["x"][0])
    assert float((logits - ref["eval_logits"]).abs().max()) <= 1e-6 * float(
        ref["eval_logits"].abs().max()
    )
