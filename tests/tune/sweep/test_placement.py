"""Where a sweep's trials run on a cluster: GPUs, threads and trials at once; what never fits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rbnn.errors import RecipeError
from rbnn.recipe import Recipe
from tune.cluster.resources import Capacity, Node
from tune.sweep.placement import Placement, place, share, trials_per_gpu, work_of

GPU_NODES = Capacity((Node(8, 0), Node(16, 4), Node(16, 2)), "the cluster at x")
CPU_NODES = Capacity((Node(4, 0), Node(3, 0)), "the cluster at x")


def placed(
    nodes: Capacity = GPU_NODES, gpus: float = 0, most: int = 99, concurrent: int = 0,
    of: str = "", **values: Any,
) -> Placement:  # fmt: skip
    """The placement of a recipe of these values, which names the GPUs `of` its machine."""
    recipe = Recipe(**{"dataset": "digits", "model": "resnet20_1w1a", "gpus": of, **values})
    wanted = {"gpus_per_trial": gpus, "most_at_once": most, "concurrent": concurrent}
    return place(recipe, nodes, num_trials=99, **wanted)


@pytest.mark.parametrize(
    ("given", "gpus", "concurrent"),
    [
        ({}, 0.5, 12),
        ({"most": 8}, 0.5, 8),
        ({"batch_size": 4096}, 1, 6),
        ({"gpus": 1}, 1, 6),
        ({"gpus": 0.5}, 0.5, 12),
        ({"gpus": 0.6}, 0.6, 6),
        ({"gpus": 0.5, "most": 5}, 0.5, 5),
        ({"train_workers": 6}, 6, 1),
    ],
)
def test_a_trial_gets_gpus_and_a_share_of_its_nodes(
    given: dict[str, Any], gpus: float, concurrent: int
) -> None:
    found = placed(**given)
    assert (found.gpus, found.concurrent) == (gpus, concurrent)
    if gpus >= 1:
        assert found.recipe.threads == 4


def test_without_gpus_threads_are_as_many_as_all_trials_can_have_at_once() -> None:
    found = placed(CPU_NODES, most=3)
    assert (found.gpus, found.concurrent, found.recipe.threads) == (0, 3, 2)
    assert CPU_NODES.fitting(found.recipe.threads + 1, 0) < 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": 5}, "gpus_per_trial is 5, and no node of the cluster at x has more than 4 GPU"),
        ({"train_workers": 7}, "gpus_per_trial is 7, .* all nodes together 6"),
        ({"concurrent": 7, "gpus": 1}, "7 trial.* do not fit .*at most 6 do"),
        ({"of": "none", "gpus": 1}, "is 1, and no node of the cluster at x has more than 0 GPU"),
        ({"of": "none", "threads": 17}, "17 thread.* do not fit the cluster at x .*at most 0 do"),
        ({"of": "0,1"}, "gpus is '0,1', and Ray hands out the GPUs of the cluster at x"),
    ],
)
def test_what_can_never_be_placed_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        placed(**given)


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
        ({}, 80 * 1e9, 8),
        ({"dataset": "digits"}, 80 * 1e9, 8),
        ({"batch_size": 512}, 80 * 1e9, 4),
        ({"batch_size": 4096}, 80 * 1e9, 1),
        ({}, 11 * 1e9, 2),
        ({"model": "resnet18_1w1a"}, 80 * 1e9, 1),
        ({"model": "vgg_small_1w1a"}, 80 * 1e9, 1),
        ({"dataset": "imagenet", "model": "resnet18_1w1a"}, 80 * 1e9, 1),
        ({"train_workers": 2}, 80 * 1e9, 1),
    ],
)
def test_small_networks_share_a_gpu(values: dict[str, Any], memory: float, expected: int) -> None:
    assert trials_per_gpu(Recipe(**{"dataset": "cifar10", **values}), memory) == expected


@pytest.mark.parametrize("num", range(1, 9))
def test_as_many_shares_as_are_meant_fit_in_ray_s_ten_thousandths(num: int) -> None:
    assert num * round(share(num) * 10_000) <= 10_000 < (num + 1) * round(share(num) * 10_000)


@pytest.mark.slow
def test_ray_gives_trials_and_workers_the_gpus_that_they_are_to_have(
    nullgpu: dict[str, str], tmp_path: Path
) -> None:
    # NCCL is chosen, and what it needs of a real GPU is put off.
    environment = nullgpu | {"NULLCUDA_DEVICES": "6", "TORCH_DIST_USE_NCCL2": "0"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("placed.py"))]
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    alone, shared, ranks = (found[case] for case in ("alone", "shared", "of-two-workers"))
    assert all(one["device"] == "cuda:0" for one in (*alone, *shared))
    for trials, most in ((alone, 1), (shared, 2)):
        times = Counter(trial["visible"] for trial in trials)
        assert set(times) <= {"2", "3", "4", "5"} and max(times.values()) <= most
    assert len({trial["visible"] for trial in shared}) < len(shared)
    assert [rank["backend"] for rank in ranks] == ["nccl"] * 2
    own = [rank["visible"].split(",")[int(rank["device"][-1])] for rank in ranks]
    assert len(set(own)) == 2 and set(own) <= {"2", "3", "4", "5"}
