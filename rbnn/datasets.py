"""DATASETS: what each data set is, as facts that need no data and no imports. A new one: its
module, and one line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbnn.errors import RecipeError, nearest

Augmentation = Literal["none", "crop_flip", "rotate_flip", "resized_crop_flip"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class DatasetSpec:
    """One data set. `mean`, `std`: per channel, of values in [0, 1]. `module`: what reads it,
    imported when it is used.
    """

    num_classes: int
    image_size: int
    mean: Triple
    std: Triple
    augmentation: Augmentation
    module: str
    default_model: str
    in_memory: bool
    has_test_split: bool
    description: str
    num_train: int  # as published; what is found on disk may be less


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR100_MEAN, CIFAR100_STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
TINY_MEAN, TINY_STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)
HALF = (0.5, 0.5, 0.5)

DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        10, 32, HALF, HALF, "none", "rbnn.data.digits", "resnet20_1w1a", True, False,
        "scikit-learn's handwritten digits, 1,400 + 397 real 8x8 images as 32x32x3; no "
        "download", 1_400,
    ),
    "cifar10": DatasetSpec(
        10, 32, IMAGENET_MEAN, IMAGENET_STD, "crop_flip", "rbnn.data.cifar", "resnet20_1w1a",
        True, True,
        "CIFAR-10, 50,000 + 10,000 images of 32x32", 50_000,
    ),
    "cifar100": DatasetSpec(
        100, 32, CIFAR100_MEAN, CIFAR100_STD, "crop_flip", "rbnn.data.cifar", "resnet20_1w1a",
        True, True,
        "CIFAR-100, 50,000 + 10,000 images of 32x32", 50_000,
    ),
    "tinyimagenet": DatasetSpec(
        200, 224, TINY_MEAN, TINY_STD, "rotate_flip", "rbnn.data.folders", "resnet18_1w1a",
        False, True,
        "Tiny ImageNet, 100,000 + 10,000 images of 64x64, enlarged to 224x224", 100_000,
    ),
    "imagenet": DatasetSpec(
        1000, 224, IMAGENET_MEAN, IMAGENET_STD, "resized_crop_flip", "rbnn.data.folders",
        "resnet18_1w1a", False, True,
        "ImageNet (ILSVRC 2012), 1,281,167 + 50,000 images", 1_281_167,
    ),
}  # fmt: skip


def dataset_spec(name: str) -> DatasetSpec:
    """The entry of DATASETS; RecipeError, with the nearest names, where there is none."""
    try:
        return DATASETS[name]
    except KeyError:
        raise RecipeError(
            f"dataset '{name}' is unknown; choose {nearest(name, DATASETS)}"
        ) from None
