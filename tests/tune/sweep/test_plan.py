"""What a sweep file becomes on a machine: trials at once, threads, GPUs, and what is refused before
anything starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rbnn import hardware, session
from rbnn.errors import RecipeError
from tune.sweep import placement
from tune.sweep.config import parse_sweep
from tune.sweep.plan import SweepPlan, create_folder, plan, plan_again
from tune.sweep.study import Study
from tune.sweep.tuner import make_scheduler, ray_directory

DIGITS = {"dataset": "digits", "epochs": 10}
SPACE = {"lr": {"log": [0.01, 1]}, "seed": {"fixed": 7}}
KEYS = {"name": "look", "base": DIGITS, "space": SPACE, "trials": 20}
LARGE_BATCHES = {"space": {"batch_size": {"choice": [256, 512]}}}
PlanOf = Callable[..., SweepPlan]


@pytest.fixture
def plan_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlanOf:
    """The plan of a sweep file's keys on a pretended machine of so many cores and GPUs."""
    monkeypatch.chdir(tmp_path)

    def planned(cores: int, gpus: int, *, name: str = "", **keys: Any) -> SweepPlan:
        for module in (hardware, session, placement):
            monkeypatch.setattr(module, "num_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(placement, "gpu_memory", lambda: 80e9)
        return plan(parse_sweep({**KEYS, **keys}, tmp_path), name=name, results_dir="out")

    return planned


@pytest.mark.parametrize(
    ("machine", "keys", "placed"),  # trials at once, threads, CPUs and GPUs of one
    [
        ((8, 0), {}, (5, 1, 1.0, 0.0)),
        ((8, 0), {"trials": 8}, (2, 4, 4.0, 0.0)),
        ((2, 0), {"trials": 3}, (1, 2, 2.0, 0.0)),
        ((8, 0), {"concurrent": 8}, (8, 1, 1.0, 0.0)),
        ((8, 0), {"workers_per_trial": 2, "trials": 8}, (2, 2, 0.01, 0.0)),
        ((16, 4), {}, (5, 3, 3.0, 0.5)),
        ((16, 1), {}, (5, 3, 3.0, 0.2)),
        ((16, 1), {"trials": 99}, (8, 2, 2.0, 0.125)),
        ((16, 1), {"trials": 99, **LARGE_BATCHES}, (4, 4, 4.0, 0.25)),
        ((16, 4), {"gpus_per_trial": 1}, (4, 4, 4.0, 1.0)),
        ((16, 4), {"gpus_per_trial": 0.5}, (5, 3, 3.0, 0.5)),
        ((16, 4), {"gpus_per_trial": 0.5, "concurrent": 8}, (8, 2, 2.0, 0.5)),
        ((16, 4), {"gpus_per_trial": 0.6}, (4, 4, 4.0, 0.6)),
        ((2, 1), {"gpus_per_trial": 0.1}, (2, 1, 1.0, 0.1)),
        ((16, 4), {"workers_per_trial": 2}, (2, 4, 0.01, 0.0)),
    ],
)
def test_a_plan_fits_its_machine(
    machine: tuple[int, int], keys: dict[str, Any], placed: tuple[float, ...], plan_of: PlanOf
) -> None:
    made = plan_of(*machine, **keys)
    assert (made.concurrent, made.recipe.threads, made.cpus, made.gpus) == placed
    assert made.concurrent * made.recipe.train_workers * made.recipe.threads <= machine[0]


def test_mps_is_started_where_trials_share_a_gpu(plan_of: PlanOf) -> None:
    assert plan_of(16, 1).mps
    assert not plan_of(16, 1, mps=False).mps and not plan_of(16, 1, gpus_per_trial=1).mps


@pytest.mark.parametrize(
    ("machine_of", "keys", "message"),
    [
        ((2, 0), {"concurrent": 3}, "GPU(s) each do not fit this machine (2 cores, 0 GPUs)"),
        ((2, 0), {"workers_per_trial": 4}, "do not fit this machine"),
        ((2, 0), {"base": {**DIGITS, "threads": 4}}, "of 4 thread(s) and 0 GPU(s) each do not fit"),
        ((8, 0), {"name": "a/b"}, "name is 'a/b'; it must be letters"),
        ((8, 0), {"name": ".."}, "name is '..'; it must be letters"),
        ((8, 0), {"gpus_per_trial": 1}, "gpus_per_trial is 1, but this machine has 0 GPUs"),
        ((8, 2), {"gpus_per_trial": 4}, "gpus_per_trial is 4, but this machine has 2 GPUs"),
        ((8, 2), {"concurrent": 9}, "9 trial(s) at once"),
        ((8, 2), {"concurrent": 3, "gpus_per_trial": 1}, "3 trial(s) at once"),
        ((8, 2), {"base": {**DIGITS, "gpus": "0,1"}}, "gpus is '0,1', and Ray hands out the GPUs"),
    ],
)
def test_a_sweep_that_can_never_be_placed_is_refused(
    machine_of: tuple[int, int], keys: dict[str, Any], message: str, plan_of: PlanOf, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refusal:
        plan_of(*machine_of, **keys)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_writes_nothing_and_never_takes_a_folder_that_is_there(
    plan_of: PlanOf, tmp_path: Path
) -> None:
    made = plan_of(2, 0, name="mine")
    assert made.directory == Path("out/mine") and list(tmp_path.iterdir()) == []
    made.directory.mkdir(parents=True)
    there = "'mine' exists in out/mine; choose another --name"
    with pytest.raises(RecipeError, match=f"^folder {there}$"):
        plan_of(2, 0, name="mine")
    (made.directory / "sweep.json").touch()
    with pytest.raises(RecipeError, match=f"^sweep {there}, or go on with it: rbnn resume"):
        plan_of(2, 0, name="mine")
    assert plan_of(2, 0).name.startswith("look-")


def test_a_sweep_goes_on_with_its_own_threads_and_as_many_at_once_as_fit(plan_of: PlanOf) -> None:
    made = plan_of(8, 0, concurrent=8)
    again = plan_again(made.config, made.recipe, made.name, made.directory, made.concurrent, None)
    assert (again.recipe, again.concurrent, again.cpus) == (made.recipe, 8, 1.0)
    plan_of(2, 0)  # from here on the machine has two cores
    again = plan_again(made.config, made.recipe, made.name, made.directory, made.concurrent, None)
    assert (again.recipe, again.concurrent) == (made.recipe, 2)


@pytest.mark.parametrize(
    ("scheduler", "rungs"), [({"grace_period": 2}, [2, 6]), ("none", []), ("short", [])]
)
def test_asha_alone_has_rungs(scheduler: Any, rungs: list[int], plan_of: PlanOf) -> None:
    planned = plan_of(2, 0, scheduler=scheduler)
    assert make_scheduler(planned, Study(None, "s")).rungs == [rungs]


@pytest.mark.parametrize(("login", "hidden"), [("ann", False), ("ann:geheim", True)])
def test_what_holds_the_storages_password_is_its_owners_alone(
    login: str, hidden: bool, plan_of: PlanOf
) -> None:
    planned = plan_of(2, 0, name="look", storage=f"postgresql://{login}@db/rbnn")
    folder = create_folder(planned, "sqlite:////runs/mlflow.db")
    phase = SimpleNamespace(study=SimpleNamespace(name="look"))
    where = ray_directory(planned, phase)  # type: ignore[arg-type]
    found = [folder.directory / "sweep.json", folder.directory / "sweep.yaml", where]
    assert [path.stat().st_mode & 0o077 == 0 for path in found] == [hidden] * 3
    assert folder.record.storage == folder.config.storage == planned.config.storage
