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
CIFAR = Recipe(dataset="cifar10")
NO_COMPILER = "there is no C++ compiler (g++)"
Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend a machine of so many cores and GPUs, and what keeps it from compiling."""

    def machine_of(cores: int, gpus: int, obstacle: str = "") -> None:
        for module in (hardware, session):
            monkeypatch.setattr(module, "num_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(session, "obstacle", lambda kind: obstacle)

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
def test_gpus_of_a_recipe(given: str, present: int, expected: list[int], pretend: Pretend) -> None:
    pretend(8, present)
    recipe = RECIPE.replace(gpus=given)
    assert gpu_ids(recipe) == expected
    assert device_of(recipe) == torch.device(f"cuda:{expected[0]}" if expected else "cpu")


NO_NUMBERS = "it must be GPU numbers such as 0,1, or none for the CPU"


@pytest.mark.parametrize(
    ("gpus", "workers", "machine_of", "message"),
    [
        ("0", 1, (8, 0), "gpus is '0', but this machine has no GPU; pass --gpus none to train on "
                         "the CPU"),
        ("0,1,2", 1, (8, 1), "gpus is '0,1,2', but this machine has 1 GPU; pass --gpus 0"),
        ("2", 1, (8, 2), "gpus is '2', but this machine has 2 GPUs; pass --gpus 0,1"),
        ("0,0", 1, (8, 2), f"gpus is '0,0'; {NO_NUMBERS}"),
        ("all", 1, (8, 2), f"gpus is 'all'; {NO_NUMBERS}"),
        ("-1", 1, (8, 2), f"gpus is '-1'; {NO_NUMBERS}"),
        ("", 3, (2, 0), "train_workers is 3, but this machine has 2 cores; use at most 2"),
        ("", 3, (8, 2), "train_workers is 3 on 2 GPU(s); give one worker per GPU, or --gpus none"),
        ("0", 2, (8, 2), "train_workers is 2 on 1 GPU(s); give one worker per GPU, or --gpus none"),
    ],
)  # fmt: skip
def test_what_the_machine_does_not_have_is_refused(
    gpus: str, workers: int, machine_of: tuple[int, int], message: str, pretend: Pretend
) -> None:
    pretend(*machine_of)
    with pytest.raises(RecipeError) as refusal:
        resolve(RECIPE.replace(gpus=gpus, train_workers=workers))
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("changes", "machine_of", "share", "expected"),
    [
        ({}, (8, 0), 1, (1, 8)),
        ({}, (8, 0), 3, (1, 2)),
        ({}, (2, 0), 3, (1, 1)),
        ({"train_workers": 2}, (8, 0), 1, (2, 4)),
        ({"threads": 3}, (8, 0), 2, (1, 3)),
        ({"gpus": "0,1,2,3"}, (8, 4), 1, (4, 2)),
        ({"train_workers": 2}, (8, 4), 1, (2, 4)),
        ({"gpus": "none", "train_workers": 4}, (4, 4), 1, (4, 1)),
    ],
)
def test_workers_and_threads_become_explicit(
    changes: dict[str, object],
    machine_of: tuple[int, int],
    share: int,
    expected: tuple[int, int],
    pretend: Pretend,
) -> None:
    pretend(*machine_of)
    recipe = resolve(RECIPE.replace(**changes), share)
    assert (recipe.train_workers, recipe.threads) == expected
    assert resolve(recipe, share) == recipe


@pytest.mark.usefixtures("settings_put_back")
def test_a_process_is_prepared_for_repeatable_bits() -> None:
    prepare_process(RECIPE.replace(threads=1), torch.device("cpu"))
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert float(torch.tensor(1e-40) * 1) == 0


@pytest.mark.parametrize(
    ("recipe", "in_turn", "obstacle", "expected"),
    [
        (CIFAR.replace(epochs=2), 1, "", "on"),
        (CIFAR.replace(epochs=1), 1, "", "off"),
        (RECIPE.replace(epochs=40), 1, "", "off"),
        (RECIPE.replace(epochs=1, compile="on"), 1, "", "on"),
        (CIFAR.replace(compile="off"), 1, "", "off"),
        (CIFAR.replace(compile="off"), 1, NO_COMPILER, "off"),
        (RECIPE.replace(epochs=3), 1, NO_COMPILER, "off"),
        # Runs in turn share what a process compiles.
        (RECIPE.replace(epochs=12), 3, "", "off"),
        (RECIPE.replace(epochs=12), 4, "", "on"),
    ],
)
def test_compile_becomes_explicit_by_the_amount_of_work(
    recipe: Recipe,
    in_turn: int,
    obstacle: str,
    expected: str,
    pretend: Pretend,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(2, 0, obstacle)
    resolved = resolve(recipe, in_turn=in_turn)
    assert resolved.compile == resolve(resolved).compile == expected
    assert capsys.readouterr().err == ""


def test_the_images_that_are_on_disk_count(pretend: Pretend, tmp_path: Path) -> None:
    pretend(2, 0)
    for number, split in enumerate(("train", "train", "train", "val")):
        file = tmp_path / split / "n01440764" / f"{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    recipe = Recipe(dataset="imagenet", data_path=str(tmp_path))
    for epochs, expected in ((1, "off"), (19_999, "off"), (20_000, "on")):
        assert resolve(recipe.replace(epochs=epochs)).compile == expected
    assert resolve(recipe.replace(compile="on", data_path="none")).compile == "on"


def test_without_a_compiler_auto_is_off_with_one_line_and_on_is_refused(
    pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(2, 0, NO_COMPILER)
    assert resolve(CIFAR).compile == "off"
    assert capsys.readouterr().err == f"compile auto: off, as {NO_COMPILER}\n"
    with pytest.raises(RecipeError) as refusal:
        resolve(CIFAR.replace(compile="on"))
    told = f"compile is 'on', but {NO_COMPILER}; install it, or pass --compile off"
    assert str(refusal.value) == told


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="another C library than glibc keeps freed memory its own way",
)
def test_the_memory_of_a_step_serves_the_next_one() -> None:
    """245,760 faults of 4 kB, fewer where the kernel gives larger pages, or next to none; which
    pages it gives depends on what else runs, so that one of several tries tells.
    """
    command = [sys.executable, "-m", "tests.rbnn.page_faults"]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        given_back, kept = map(int, done.stdout.split())
        if 10 * (kept + 1) < given_back:
            return
    raise AssertionError(f"{kept} page faults, {given_back} where memory is given back")
