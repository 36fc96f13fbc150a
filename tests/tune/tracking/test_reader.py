"""Recorded runs are found by id, by its beginning, by sweep; a dead store is refused at once."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tests.tune.made_runs import made_run, recorded_run
from tune.run.folder import RunFolder
from tune.run.record import read_record
from tune.tracking import address
from tune.tracking.address import check_reachable, check_schema, tracking_uri
from tune.tracking.mirror import Mirror
from tune.tracking.reader import RunReader, existing_reader
from tune.uris import shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RECIPE = Recipe(dataset="digits", epochs=2, lr=0.1 + 0.2, lr_type="step", lr_decay_step=(1,))
DATA = {"name": "digits", "fingerprint": "sha256:ab", "sizes": {"train": 1400, "validation": 397}}


@pytest.fixture(scope="module")
def recorded(
    new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunReader, RunFolder]:
    """A finished run of two epochs, in its folder and in the store."""
    folder = tmp_path_factory.mktemp("store")
    tags = {"rbnn.recipe": "mine"}
    epochs: list[dict[str, Any]] = [
        {"val/top1": 1 / 3, "train/loss": math.inf, "digest": "00"},
        {"val/top1": 2 / 3, "train/loss": math.nan, "digest": "01"},
    ]
    run = made_run(folder, RECIPE, epochs, "complete", tags=tags, data=DATA)
    mirror = Mirror.open(new_store(folder))
    mirror.sync(run.directory)
    recorded_run(mirror, folder, kind="sweep", name="s")
    return mirror.reader, run


def test_the_default_store_is_a_database_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    database = f"sqlite:///{tmp_path}/other/runs.db?timeout=9"
    expected = {"": f"sqlite:///{tmp_path}/mlflow.db", "http://a.org:5000": "http://a.org:5000"}
    for given, uri in {**expected, "sqlite:///other/runs.db?timeout=9": database}.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri() == uri


def test_the_files_of_a_copied_store_are_those_that_came_along(
    recorded: tuple[RunReader, RunFolder], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    there = recorded[1].directory.parent
    copytree(there, tmp_path / "a b%", dirs_exist_ok=True)
    run, uri = recorded[1].info.id, f"sqlite:///{tmp_path}/a b%/mlflow.db"
    reader = RunReader.open(uri)
    found = reader.find_run(run).info
    assert found.artifact_uri.startswith(f"{tmp_path.as_uri()}/a%20b%25/mlartifacts/")
    assert reader.recipe_of(found.run_id) == RECIPE
    assert "mlflow.db came from" in capfd.readouterr().err
    RunReader.open(uri)
    (tmp_path / "link").symlink_to(tmp_path / "a b%")
    RunReader.open(f"sqlite:///{tmp_path}/link/mlflow.db")
    assert not capfd.readouterr().err
    assert str(there) in recorded[0].find_run(run).info.artifact_uri


def test_a_locked_store_is_waited_for_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, said = f"sqlite:///{tmp_path}/mlflow.db", []
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(address, "CHECK_TIMEOUT_S", 0.01)
    with pytest.raises(RequestError, match=r"locked; another process writes to it; end that one"):
        check_reachable(uri)

    def word(text: str) -> None:
        said.append(text)
        holder.execute("ROLLBACK")

    monkeypatch.setattr(address, "warn", word)
    check_reachable(uri, 60)
    assert said == [f"MLflow store {uri} is locked by another program; waiting for it"]


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [
        (
            "451aebb31d03",
            r"older MLflow made its tables; back it up, then: mlflow db upgrade \w+://",
        ),
        ("0123456789ab", r"a newer MLflow made its tables .*; install that version, or name"),
    ],
)
def test_a_store_of_another_mlflow_is_refused_with_its_remedy(
    revision: str, remedy: str, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as file:
        file.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        file.execute("INSERT INTO alembic_version VALUES (?)", [revision])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for said in ("", f"Detected out-of-date database schema (found version {revision}, but"):
        with pytest.raises(RequestError, match=remedy):
            check_schema("postgresql://db/runs" if said else uri, said)
    with pytest.raises(RequestError, match=remedy) as refusal:
        RunReader.open(uri)
    assert "\n" not in str(refusal.value)


def test_to_look_for_a_run_makes_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert existing_reader() is None
    with pytest.raises(RequestError, match=r"nothing is recorded in .* yet"):
        RunReader.open()
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_found_by_either_id_and_by_its_beginning(
    recorded: tuple[RunReader, RunFolder],
) -> None:
    reader, run = recorded
    for wanted in (run.run_id, run.run_id[:12], run.info.id, run.info.id[:12]):
        assert reader.find_run(wanted).info.run_id == run.run_id
    for unknown in ("0" * 32, "0123456789", "", "not-an-id", "x' or 'a' = 'a"):
        with pytest.raises(RequestError, match=r"^run '") as refusal:
            reader.find_run(unknown)
        assert "\n" not in str(refusal.value)
    with pytest.raises(RequestError, match=r"holds no recipe\.yaml"):
        reader.recipe_of(reader.search("tags.`rbnn.kind` = 'sweep'")[0].info.run_id)
    with pytest.raises(RequestError, match=r"is unknown; (this store holds no sweep|known: s)"):
        reader.sweep_run("nosuch")


def test_a_recorded_run_survives_its_exported_file_to_the_last_bit(
    recorded: tuple[RunReader, RunFolder], tmp_path: Path
) -> None:
    reader, run = recorded
    record = reader.record_of(run.run_id[:10])
    record.write(tmp_path / "run.json")
    again = read_record(tmp_path / "run.json")
    assert (again.run_id, again.to_recipe(), again.recipe_name) == (run.run_id, RECIPE, "mine")
    assert again.data == DATA
    assert again.environment == record.environment and again.environment["torch"]
    assert [epoch.digests for epoch in again.epochs] == [{"digest": "00"}, {"digest": "01"}]
    assert [epoch.metrics["val/top1"] for epoch in again.epochs] == [1 / 3, 2 / 3]
    losses = [epoch.metrics["train/loss"] for epoch in again.epochs]
    assert losses[0] == math.inf and math.isnan(losses[1])


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://127.0.0.1:notaport", "port"),
        ("postgresql://ann:secret@127.0.0.1:9/runs", "Connection refused"),
        ("postgresql://127.0.0.1:9/runs?user=ann&password=secret", "Connection refused"),
        ("mlruns", "it is a folder"),
        ("file:///tmp/mlruns", "it is a folder"),
        ("sqlite://", "it names no file"),
        ("sqlite:////no/such/folder/mlflow.db", "does not exist"),
        ("sqlite:////proc/mlflow.db", "unable to open"),
    ],
)
def test_a_store_that_does_not_answer_is_refused_at_once_in_one_line(uri: str, reason: str) -> None:
    begin = time.monotonic()
    with pytest.raises(RequestError, match=reason) as refusal:
        check_reachable(uri)
    assert time.monotonic() - begin < 30
    text = str(refusal.value)
    assert shown(uri) in text and "secret" not in text and "\n" not in text


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, by far")
    with pytest.raises(RequestError, match="file is not a database"):
        RunReader.open(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_deleted_experiment_is_refused_with_the_way_back(
    tmp_path: Path, new_store: Callable[[Path], str]
) -> None:
    mirror = Mirror.open(new_store(tmp_path))
    recorded_run(mirror, tmp_path)
    experiment = mirror.client.get_experiment_by_name("rbnn").experiment_id
    mirror.client.delete_experiment(experiment)
    with pytest.raises(RequestError, match=f"restore --experiment-id {experiment}"):
        recorded_run(Mirror.open(mirror.reader.uri), tmp_path)
