"""What a run asks of a GPU, counted without one: under a stand-in for the CUDA runtime and driver
torch believes in an H100, Inductor generates and Triton compiles for it, and no kernel runs.

Counts are exact, so they are asserted. nullgpu/*.cpp is the stand-in, nullgpu/work.py what is run.
All networks in all precisions, compiled and eagerly: RBNN_CHAOS=1.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbnn.hardware import obstacle
from rbnn.models import MODELS

WORK = Path(__file__).parent / "nullgpu" / "work.py"
PRECISIONS = ("float32", "tf32", "bf16")
WHOLE = pytest.mark.skipif(
    not os.environ.get("RBNN_CHAOS"), reason="half an hour; set RBNN_CHAOS=1 to run it"
)
COMPILES = pytest.mark.skipif(
    bool(obstacle("cuda")), reason=f"compiling for a GPU: {obstacle('cuda')}"
)


def worked(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """What work.py found."""
    command = [sys.executable, str(WORK), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    check(found)
    return found


def check(found: dict[str, Any]) -> None:
    """What holds compiled and eagerly: no step waits, copies are few, resuming and a run work,
    nothing gives other bits the next time.
    """
    assert found["step"]["syncs"] == found["step"]["d2h"] == found["step"]["h2d"] == 0
    rotation = found["rotation"]
    assert (rotation["launches"], rotation["graphs"], rotation["syncs"]) == (0, 1, 0)
    assert found["diagnostics"]["launches"] <= 150 and found["diagnostics"]["graphs"] == 3
    assert found["evaluation"]["launches"] <= 20 and found["evaluation"]["graphs"] > 0
    assert found["diagnostics"]["d2h"] == found["evaluation"]["d2h"] == 1
    assert found["digest"]["d2h"] == 1
    assert found["checkpoint"]["d2h"] <= 3
    assert found["resumed"] > 0
    assert found["heard"] == ["0 True", "1 True"]
    assert found["deterministic"] == [True, False, ":4096:8"]
    assert found["generated"]["tuned"] == found["generated"]["atomics"] == 0


@pytest.mark.parametrize(
    ("model", "precision", "a_step"),
    [
        ("resnet20_1w1a", "float32", 1300),
        ("resnet18_1w1a", "bf16", 1740),
        ("vgg_small_1w1a", "tf32", 1300),
    ],
)
def test_an_eager_run_asks_for_what_a_gpu_has(
    nullgpu: dict[str, str], model: str, precision: str, a_step: int
) -> None:
    found = worked(nullgpu, "eager", model, precision, "32", "cifar10")
    assert found["step"]["launches"] <= a_step and found["step"]["graphs"] == 0


@COMPILES
def test_a_compiled_run_is_one_graph_a_step(nullgpu: dict[str, str]) -> None:
    found = worked(nullgpu, "compile", "resnet20_1w1a", "float32", "256", "cifar10")
    step = found["step"]
    assert (step["graphs"], step["launches"] <= 3, step["graph_nodes"] <= 330) == (1, True, True)
    assert found["rotation"]["graph_nodes"] <= 250
    assert found["generated"]["kernels"] > 0


@WHOLE
@pytest.mark.parametrize(
    ("mode", "network", "precision"),
    [*itertools.product(("eager", "compile"), MODELS, PRECISIONS)],
    ids=str,
)
def test_every_network_runs_in_every_way(
    nullgpu: dict[str, str], mode: str, network: tuple[str, int], precision: str
) -> None:
    model, size = network
    dataset = "cifar10" if size == 32 else "imagenet"
    found = worked(nullgpu, mode, model, precision, "16", dataset)
    assert found["step"]["graphs"] == (mode == "compile")


@pytest.mark.parametrize("mode", ["eager", pytest.param("compile", marks=[WHOLE, COMPILES])])
def test_two_ranks_train_each_on_its_gpu(
    nullgpu: dict[str, str], mode: str, tmp_path: Path
) -> None:
    environment = nullgpu | {"NULLCUDA_DEVICES": "2"}
    command = [sys.executable, str(WORK), "ranked", mode]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path)], env=environment, **pipes)
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=500) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    for rank, (output, _) in enumerate(outputs):
        found = json.loads(output.splitlines()[-1])
        # what was heard before the end is told again
        assert found["heard"] == [f"{epoch} {not rank}" for epoch in (0, 0, 1)]
        assert found["elsewhere"] == 0
