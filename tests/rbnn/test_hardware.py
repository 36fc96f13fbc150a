"""What a machine offers a recipe, with pretended cores and GPUs."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rbnn import hardware, session
from rbnn.errors import RecipeError
from rbnn.hardware import device_of, gpu_ids, prepare_process
from rbnn.recipe import Recipe
from rbnn.session import resolve

RECIPE = Recipe(dataset="digits")
Pretend = Callable[[int, int], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend a machine of so many cores and GPUs."""

    def machine_of(cores: int, gpus: int) -> None:
        for module in (hardware, session):
            monkeypatch.setattr(module, "num_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return machine_of


@pytest.mark.parametrize(
    ("given", "present", "expected"),
    [
        ("", 0, []),
        ("", 3, [0]),
        ("none", 3, []),
        ("2", 3, [2]),
        ("0,1", 2, [0, 1]),
        (" 1 , 0 ", 2, [1, 0]),
    ],
)
def test_the_gpus_of_a_recipe(
    given: str, present: int, expected: list[int], pretend: Pretend
) -> None:
    pretend(8, present)
    assert gpu_ids(RECIPE.replace(gpus=given)) == expected
    assert device_of(RECIPE.replace(gpus=given)) == torch.device(
        f"cuda:{expected[0]}" if expected else "cpu"
    )


@pytest.mark.parametrize(
    ("given", "present", "message"),
    [
        ("0", 0, "gpus is '0', but this machine has no GPU; pass --gpus none to train on the CPU"),
        ("0,1,2,3", 1, "gpus is '0,1,2,3', but this machine has 1 GPU; pass --gpus 0"),
        ("2", 2, "gpus is '2', but this machine has 2 GPUs; pass --gpus 0,1"),
        ("0,0", 2, "gpus is '0,0'; it must be GPU numbers such as 0,1, or none for the CPU"),
        ("all", 2, "gpus is 'all'; it must be GPU numbers such as 0,1, or none for the CPU"),
        ("-1", 2, "gpus is '-1'; it must be GPU numbers such as 0,1, or none for the CPU"),
    ],
)
def test_gpus_that_are_not_there_are_refused(
    given: str, present: int, message: str, pretend: Pretend
) -> None:
    pretend(8, present)
    with pytest.raises(RecipeError) as refusal:
        gpu_ids(RECIPE.replace(gpus=given))
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("changes", "machine_of", "share", "workers", "threads"),
    [
        ({}, (8, 0), 1, 1, 8),
        ({}, (8, 0), 3, 1, 2),
        ({}, (2, 0), 3, 1, 1),
        ({"train_workers": 2}, (8, 0), 1, 2, 4),
        ({"threads": 3}, (8, 0), 2, 1, 3),
        ({"gpus": "0,1,2,3"}, (8, 4), 1, 4, 2),
        ({"train_workers": 2}, (8, 4), 1, 2, 4),
        ({"gpus": "none", "train_workers": 4}, (4, 4), 1, 4, 1),
    ],
)
def test_workers_and_threads_become_explicit(
    changes: dict[str, object],
    machine_of: tuple[int, int],
    share: int,
    workers: int,
    threads: int,
    pretend: Pretend,
) -> None:
    pretend(*machine_of)
    recipe = resolve(RECIPE.replace(**changes), share)
    assert (recipe.train_workers, recipe.threads) == (workers, threads)
    assert resolve(recipe, share) == recipe


@pytest.mark.parametrize(
    ("changes", "machine_of", "message"),
    [
        (
            {"train_workers": 3},
            (2, 0),
            "train_workers is 3, but this machine has 2 cores; use at most 2",
        ),
        (
            {"train_workers": 3},
            (8, 2),
            "train_workers is 3 on 2 GPU(s); give one worker per GPU, or --gpus none",
        ),
        (
            {"train_workers": 2, "gpus": "0"},
            (8, 2),
            "train_workers is 2 on 1 GPU(s); give one worker per GPU, or --gpus none",
        ),
    ],
)
def test_workers_that_do_not_fit_are_refused(
    changes: dict[str, object], machine_of: tuple[int, int], message: str, pretend: Pretend
) -> None:
    pretend(*machine_of)
    with pytest.raises(RecipeError) as refusal:
        resolve(RECIPE.replace(**changes))
    assert str(refusal.value) == message


@pytest.mark.usefixtures("settings_put_back")
def test_a_process_is_prepared_for_repeatable_bits() -> None:
    prepare_process(RECIPE.replace(threads=1), torch.device("cpu"))
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert float(torch.tensor(1e-40) * 1) == 0


@pytest.mark.parametrize(
    ("changes", "compiler", "expected"),
    [
        ({"dataset": "cifar10", "epochs": 2}, "g++", "on"),
        ({"dataset": "cifar10", "epochs": 1}, "g++", "off"),
        ({"dataset": "digits", "epochs": 40}, "g++", "off"),
        ({"dataset": "digits", "epochs": 1, "compile": "on"}, "g++", "on"),
        ({"dataset": "cifar10", "compile": "off"}, "g++", "off"),
        ({"dataset": "cifar10", "compile": "off"}, "", "off"),
        ({"dataset": "digits", "epochs": 3}, "", "off"),
    ],
)
def test_compile_becomes_explicit_by_the_amount_of_work(
    changes: dict[str, object],
    compiler: str,
    expected: str,
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(2, 0)
    monkeypatch.setattr(
        session, "obstacle", lambda kind: "" if compiler else "there is no C++ compiler"
    )
    recipe = resolve(RECIPE.replace(**changes))
    assert recipe.compile == expected
    assert resolve(recipe).compile == expected
    assert capsys.readouterr().err == ""


def test_runs_in_turn_share_what_a_process_compiles(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(2, 0)
    monkeypatch.setattr(session, "obstacle", lambda kind: "")
    recipe = Recipe(dataset="digits", epochs=12)
    assert [resolve(recipe, in_turn=runs).compile for runs in (1, 3, 4)] == ["off", "off", "on"]


def test_of_a_data_set_on_disk_the_images_that_are_there_count(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(2, 0)
    monkeypatch.setattr(session, "obstacle", lambda kind: "")
    for split, number in (("train", 0), ("train", 1), ("train", 2), ("val", 3)):
        (tmp_path / split / "n01440764").mkdir(parents=True, exist_ok=True)
        (tmp_path / split / "n01440764" / f"{number}.JPEG").touch()
    recipe = Recipe(dataset="imagenet", data_path=str(tmp_path))
    assert [resolve(recipe.replace(epochs=epochs)).compile for epochs in (1, 19_999, 20_000)] == [
        "off",
        "off",
        "on",
    ]
    assert resolve(recipe.replace(compile="on", data_path="none")).compile == "on"


def test_without_a_compiler_auto_is_off_with_one_line_and_on_is_refused(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(2, 0)
    monkeypatch.setattr(session, "obstacle", lambda kind: "there is no C++ compiler (g++)")
    assert resolve(Recipe(dataset="cifar10")).compile == "off"
    assert capsys.readouterr().err == "compile auto: off, as there is no C++ compiler (g++)\n"
    with pytest.raises(RecipeError) as refusal:
        resolve(Recipe(dataset="cifar10", compile="on"))
    assert (
        str(refusal.value)
        == "compile is 'on', but there is no C++ compiler (g++); install it, or pass --compile off"
    )


FAULTS = """
import resource, sys, torch
from rbnn.hardware import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(4 << 20) for _ in range(6)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="another C library than glibc keeps freed memory its own way",
)
def test_the_memory_of_a_step_serves_the_next_one() -> None:
    """Six tensors of 16 MB, ten times: 245,760 faults of 4 kB, fewer where the kernel gives larger
    pages, or next to none.
    """

    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=120
        )
        return int(done.stdout)

    assert 10 * (faults("kept") + 1) < faults("given back")
