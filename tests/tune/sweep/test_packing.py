"""How many trials share a GPU, by network, batch and memory."""

from __future__ import annotations

from typing import Any

import pytest

from rbnn.recipe import Recipe
from tune.sweep.packing import share, trials_per_gpu, work_of

GB = 1e9


def test_the_work_of_a_network_is_what_its_layers_make() -> None:
    in_planes = (3, *[16] * 7, *[32] * 6, *[64] * 5)
    planes, sizes = (*[16] * 7, *[32] * 6, *[64] * 6), (*[32] * 7, *[16] * 6, *[8] * 6)
    weights = [9 * i * o for i, o in zip(in_planes, planes, strict=True)]
    products = sum(num * size**2 for num, size in zip(weights, sizes, strict=True)) + 64 * 10
    others = (
        2 * sum(planes) + 2 * sum(planes[1:]) + 2 * 64 + 64 * 10 + 10
    )  # BN; alpha, beta; the end
    work = work_of("resnet20_1w1a", "cifar10")
    assert (work.parameters, work.multiply_adds) == (sum(weights) + others, products)
    assert work.largest == 16 * 32 * 32


@pytest.mark.parametrize(
    ("values", "memory", "expected"),
    [
        ({}, 80 * GB, 8),
        ({"dataset": "digits"}, 80 * GB, 8),
        ({"batch_size": 512}, 80 * GB, 4),
        ({"batch_size": 4096}, 80 * GB, 1),
        ({}, 11 * GB, 2),
        ({"model": "resnet18_1w1a"}, 80 * GB, 1),
        ({"model": "vgg_small_1w1a"}, 80 * GB, 1),
        ({"dataset": "imagenet", "model": "resnet18_1w1a"}, 80 * GB, 1),
        ({"train_workers": 2}, 80 * GB, 1),
    ],
)
def test_small_networks_share_a_gpu(values: dict[str, Any], memory: float, expected: int) -> None:
    assert trials_per_gpu(Recipe(**{"dataset": "cifar10", **values}), memory) == expected


@pytest.mark.parametrize("num", range(1, 9))
def test_as_many_shares_as_are_meant_fit_in_ray_s_ten_thousandths(num: int) -> None:
    assert num * round(share(num) * 10_000) <= 10_000 < (num + 1) * round(share(num) * 10_000)
