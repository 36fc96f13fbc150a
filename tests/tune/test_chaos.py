"""Accidents at seeded moments of a small sweep: whatever is killed, once resumed it ends as an
undisturbed one, in all stores.

The short form kills a trial, the sweep's process and Ray's raylet; `make chaos` (RBNN_CHAOS=1)
kills many more, the GCS and the workers of trials that have several too, and sends signals, ends
the reader of the output, fills the disk and locks the stores.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tests.tune.workplace import Workplace
from tune.run.journal import JOURNAL, Journal

pytestmark = pytest.mark.slow

Session = Callable[[Path, str], tuple[int, str]]
MOMENTS = ("before", "checkpoint", "journal", "report")
NAME = "tiny"
FILE: dict[str, Any] = {
    "base": {"dataset": "digits", "epochs": 4, "lr": 0.02, "Tmin": 0.3, "Tmax": 3, "gpus": "none"},
    "space": {"lr": {"log": [0.001, 1]}},
    "trials": 6,
    "concurrent": 1,
    "seed": 3,
    "max_failures": 20,
    "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 2},
    "confirm_top": 1,
    "confirm_seeds": 1,
}
# Workers of a trial run on until they hear that it was stopped: here none is.
NESTED = {**FILE, "trials": 3, "workers_per_trial": 2, "scheduler": "none"}
NESTED["base"] = {**FILE["base"], "epochs": 3, "threads": 1}


def swept(
    session: Session, folder: Path, accidents: list[list[Any]], file: dict[str, Any] = FILE
) -> Path:
    """A sweep that is resumed after every accident, until it ends by itself."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump(file))
    (folder / f"{NAME}-accidents.json").write_text(json.dumps(accidents))
    status, output = session(folder, NAME)
    for _ in accidents:
        if status == 0:
            break
        assert "Traceback" not in output, output
        status, output = session(folder, NAME)
    assert status == 0 and "Traceback" not in output, output
    happened = [f"{NAME}-accident-{'-'.join(map(str, accident))}" for accident in accidents]
    assert sorted(path.name for path in folder.glob(f"{NAME}-accident-*")) == sorted(happened)
    return folder


def studies(folder: Path) -> dict[str, Any]:
    """What Optuna holds of the search and of the confirmation, but for times and run ids."""
    storage = f"sqlite:///{folder}/result/{NAME}/optuna.db"
    attributes = ("values", "setting", "test")

    def plain(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
        given = {key: trial.user_attrs[key] for key in attributes if key in trial.user_attrs}
        scores = trial.intermediate_values
        return trial.number, trial.state.name, trial.params, trial.value, scores, given

    found = {}
    for name in (NAME, f"{NAME}.confirm"):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        found[name] = [plain(trial) for trial in trials]
    return found


def mlflow_runs(folder: Path) -> dict[str, Any]:
    """What MLflow holds, but for times and ids; a run that is there twice, or still runs, fails the
    test.
    """
    place = Workplace(folder)
    reader = place.reader()
    runs = reader.search("")
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED", "FAILED"}
    parent = reader.sweep_run(NAME).info.run_id
    found: dict[str, Any] = {}
    for kind in ("trial", "confirm"):
        children = reader.children(parent, kind)
        numbered = {int(run.data.tags[f"rbnn.{kind}"]): run for run in children}
        assert len(numbered) == len(children)
        for number, run in sorted(numbered.items()):
            ended = (run.info.status, run.data.tags.get("rbnn.pruned"), run.data.params["lr"])
            found[f"{kind} {number}"] = (ended, place.history(run.info.run_id))
    assert len(runs) == len(found) + 1
    return found


def journals(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the trials' own files hold, but for times."""
    found = {}
    for file in sorted((folder / "result" / NAME).glob(f"*/*/{JOURNAL}")):
        rows = Journal(file.parent).rows
        for row in rows:
            del row["time_ms"]
        found[str(file.relative_to(folder))] = rows
    return found


def accidents_of(undisturbed: Path, seed: int, victims: list[str]) -> list[list[Any]]:
    """One accident for each victim, at moments that the undisturbed sweep had, no two at one epoch
    of a trial. A trial's last report may stop it, so nothing happens after it.
    """
    moments = []
    for name, rows in journals(undisturbed).items():
        if "/trials/" in name:
            number, last = int(Path(name).parts[-2]), rows[-1]["epoch"]
            moments += [(number, row["epoch"], row["epoch"] == last) for row in rows]
    chosen = random.Random(seed).sample(moments, len(victims))
    draw = random.Random(seed + 1)
    found = []
    for (number, epoch, is_last), victim in zip(chosen, victims, strict=True):
        moment = draw.choice(MOMENTS[:-1] if is_last else MOMENTS)
        found.append([number, epoch, moment, victim])
    return found


def assert_that_accidents_change_nothing(
    session: Session, undisturbed: Path, name: str, accidents: list[list[Any]], **given: Any
) -> None:
    """In any of the stores."""
    disturbed = swept(session, undisturbed.parent / name, accidents, **given)
    for read in (journals, studies, mlflow_runs):
        assert read(disturbed) == read(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tiny_sweep: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept(tiny_sweep, tmp_path_factory.mktemp("chaos") / "undisturbed", [])


def test_a_sweep_that_loses_a_trial_its_process_and_its_ray_ends_as_an_undisturbed_one(
    tiny_sweep: Session, undisturbed: Path
) -> None:
    accidents = accidents_of(undisturbed, seed=2, victims=["trial", "sweep", "raylet"])
    assert_that_accidents_change_nothing(tiny_sweep, undisturbed, "disturbed", accidents)


KINDS = {  # of accidents: each series has five of one kind
    "killed": ["trial", "trial", "sweep", "sweep", "sweep", "raylet", "raylet", "gcs"],
    "signals": ["int", "term", "hup", "nap"] * 2,
    "stopping": ["stop", "stop-gcs", "stop-raylet"] * 2,
    "terminal": ["reader", "reader", "reader", "hup", "hup"],
    "disk": ["full"] * 5,
    "locks": ["optuna", "mlflow"] * 3,
}


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not os.environ.get("RBNN_CHAOS"), reason="long: make chaos runs it")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_any_series_of_accidents_changes_nothing(
    tiny_sweep: Session, undisturbed: Path, kind: str, seed: int
) -> None:
    accidents = accidents_of(undisturbed, seed, random.Random(seed).sample(KINDS[kind], 5))
    assert_that_accidents_change_nothing(tiny_sweep, undisturbed, f"{kind}-{seed}", accidents)


@pytest.mark.timeout(1200)  # seven sessions whose trials start two processes each
@pytest.mark.skipif(not os.environ.get("RBNN_CHAOS"), reason="long: make chaos runs it")
def test_trials_of_two_workers_lose_any_of_their_processes(
    tiny_sweep: Session, tmp_path: Path
) -> None:
    undisturbed = swept(tiny_sweep, tmp_path / "undisturbed", [], NESTED)
    accidents = accidents_of(undisturbed, seed=1, victims=["worker", "leader", "trial", "sweep"])
    given: dict[str, Any] = {"accidents": accidents, "file": NESTED}
    assert_that_accidents_change_nothing(tiny_sweep, undisturbed, "disturbed", **given)
