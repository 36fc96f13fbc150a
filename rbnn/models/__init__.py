"""Every network by name and by the size of image it takes. A new one: its file, and one line in
MODELS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from rbnn.datasets import dataset_spec
from rbnn.errors import RecipeError
from rbnn.layers import Semantics
from rbnn.models.resnet_cifar import ResNet18, ResNet20
from rbnn.models.resnet_imagenet import ResNet
from rbnn.models.vgg import VGGSmall

MODELS: dict[tuple[str, int], Callable[..., nn.Module]] = {
    ("resnet20_1w1a", 32): ResNet20,
    ("resnet20_bireal_1w1a", 32): partial(ResNet20, bireal=True),
    ("resnet18_1w1a", 32): ResNet18,
    ("vgg_small_1w1a", 32): VGGSmall,
    ("resnet18_1w1a", 224): partial(ResNet, (2, 2, 2, 2)),
    ("resnet34_1w1a", 224): partial(ResNet, (3, 4, 6, 3)),
}


def names_for(dataset: str) -> list[str]:
    """The models that take the images of `dataset`, sorted."""
    size = dataset_spec(dataset).image_size
    return sorted(name for name, image_size in MODELS if image_size == size)


def check_model(name: str, dataset: str) -> None:
    """RecipeError where the data set or the model is unknown, or the model is not one for images of
    that size.
    """
    if (name, dataset_spec(dataset).image_size) not in MODELS:
        *others, last = names_for(dataset)
        raise RecipeError(
            f"model '{name}' is unknown for {dataset}; choose {', '.join(others)} or {last}"
        )


def build(
    name: str, dataset: str, a32: bool = False, *, semantics: Semantics = "reference"
) -> nn.Module:
    """A fresh network, initialised from torch's global generator, for (N, 3, S, S) images of
    `dataset`.

    Raises RecipeError as `check_model` does.
    """
    check_model(name, dataset)
    spec = dataset_spec(dataset)
    return MODELS[name, spec.image_size](spec.num_classes, a32=a32, semantics=semantics)
