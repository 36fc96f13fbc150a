"""A sweep's folder: found by name or path, conducted by one process at a time, dead when its
process is.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from tune.process import Process
from tune.sweep import folder as module
from tune.sweep.folder import SweepFolder, SweepRecord, find_sweep, sweep_folders
from tune.sweep.study import begin_study
from tune.uris import sqlite_path, with_absolute_path


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    made = SweepFolder(tmp_path / "mine")
    made.directory.mkdir()
    made.write(SweepRecord(id="ab" * 16, name="mine", began=5.0))
    return made


def test_a_sweep_is_found_by_name_and_by_folder(folder: SweepFolder, tmp_path: Path) -> None:
    assert find_sweep("mine", str(tmp_path)).directory == folder.directory
    assert find_sweep(str(folder.directory)).directory == folder.directory
    assert folder.handle == str(folder.directory)
    assert SweepFolder(Path("result/mine")).handle == "mine"
    assert [one.record.name for one in sweep_folders(str(tmp_path))] == ["mine"]
    with pytest.raises(RequestError, match=r"sweep 'other' is not in .* \(known: mine\); give its"):
        find_sweep("other", str(tmp_path))


def test_a_record_survives_its_file_and_keys_of_a_later_version(folder: SweepFolder) -> None:
    folder.update(trials=7, budget_s=2.5)
    assert (folder.record.trials, folder.record.budget_s, folder.record.began) == (7, 2.5, 5.0)
    folder.path.write_text(folder.path.read_text().replace("{", '{"added_later": 1,', 1))
    assert folder.record.name == "mine"


def test_a_record_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int | None]] = []

    def noted(descriptor: int) -> None:
        written.append((os.fstat(descriptor).st_size, folder.record.trials))

    monkeypatch.setattr(os, "fsync", noted)
    folder.update(trials=7)
    assert written == [(folder.path.stat().st_size, None)] and folder.record.trials == 7


@pytest.mark.parametrize("name", ["100%25 wh?t", "a{b}#c größer 'x' @y:z"])
def test_its_databases_lie_in_it_whatever_its_name(name: str, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / name)
    folder.directory.mkdir()
    url, file = folder.storage_url(SweepRecord()), folder.directory / "optuna.db"
    begin_study(url, "mine", "ab" * 16)
    assert file.is_file() and sqlite_path(url) == file and with_absolute_path(url) == url


def test_a_sweep_file_that_says_something_else_now_is_refused(folder: SweepFolder) -> None:
    file = folder.directory / "sweep.yaml"
    text = "name: mine\nbase: {dataset: digits}\nspace: {lr: {log: [0.01, 1]}}\n"
    file.write_text(text)
    folder.update(file=module.digest_of(file))
    file.write_text(f"# a remark\n{text}")
    assert folder.unchanged_config.name == "mine"
    file.write_text(text.replace("0.01", "0.1"))
    with pytest.raises(RequestError, match=r"sweep.yaml' says something else than when its sweep"):
        _ = folder.unchanged_config


@pytest.mark.parametrize("given", ["store", "storage"])
def test_a_record_with_a_password_is_its_owners_alone(given: str, folder: SweepFolder) -> None:
    mode = folder.path.stat().st_mode & 0o777
    folder.update(**{given: "postgresql://ann@db/rbnn"})
    assert folder.path.stat().st_mode & 0o777 == mode != 0o600
    folder.update(**{given: "postgresql://ann:geheim@db/rbnn"})
    assert folder.path.stat().st_mode & 0o777 == 0o600
    assert getattr(folder.record, given).endswith("geheim@db/rbnn")


def test_another_users_sweep_hides_no_other_and_is_refused_in_one_line(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = SweepFolder(tmp_path / "theirs")
    theirs.directory.mkdir()
    theirs.write(SweepRecord(id="cd" * 16, name="theirs"))
    monkeypatch.setattr(os, "access", lambda path, mode: "theirs" not in str(path))
    assert [one.record.name for one in sweep_folders(str(tmp_path))] == ["mine"]
    text = r"^sweep 'theirs' is another user's alone, as .* holds a password$"
    with pytest.raises(RequestError, match=text):
        find_sweep("theirs", str(tmp_path))


def test_one_process_conducts_a_sweep_and_its_end_is_noted(folder: SweepFolder) -> None:
    folder.stop_file.touch()
    with folder.conducting():
        assert not folder.stop_file.exists()
        assert folder.conducted() and folder.state == "running"
        text = rf"'mine' is running \(process {os.getpid()} on .*rbnn stop {folder.directory}$"
        with pytest.raises(RequestError, match=text):
            SweepFolder(folder.directory).conducting().__enter__()
        folder.end("finished")
    assert (folder.state, folder.record.sessions) == ("finished", 1)
    assert 0 < folder.record.used_s < 10


def test_a_sweep_whose_process_is_gone_has_died_and_may_be_taken_up(folder: SweepFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gone = dataclasses.asdict(Process.at(process.pid))
        folder.update(state="running", process=gone, sessions=1, session_began=time.time() - 5)
        assert folder.state == "running"
        process.communicate(b"\n")
    assert folder.state == "died"
    assert folder.used_s == pytest.approx(5, abs=2)
    with folder.conducting():
        assert folder.record.used_s == pytest.approx(5, abs=2)


def test_a_process_lives_under_its_own_number_here_and_elsewhere_while_it_is_heard_of(
    folder: SweepFolder,
) -> None:
    other = dataclasses.asdict(Process.current()) | {"started": "1"}
    folder.update(state="running", process=other)
    assert folder.state == "died"
    folder.update(process={"host": "elsewhere", "pid": 1, "started": "1"})
    assert folder.state == "running"
    silent = time.time() - module.SILENT_S - 1
    os.utime(folder.path, (silent, silent))
    assert folder.state == "died"
    folder.beat()
    assert folder.state == "running"


def test_a_store_moves_with_its_folder_and_a_copy_has_its_own_or_is_refused(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "a"
    project.mkdir()
    (project / "mlflow.db").touch()
    sweep = SweepFolder(project / "result" / "mine")
    sweep.directory.mkdir(parents=True)
    store = f"sqlite:///{project}/mlflow.db"
    sweep.write(dataclasses.replace(folder.record, store=store))
    shutil.copytree(project, tmp_path / "copy")
    shutil.copytree(sweep.directory, tmp_path / "alone")
    copy, alone = SweepFolder(tmp_path / "copy/result/mine"), SweepFolder(tmp_path / "alone")
    assert sweep.store_uri() == store
    assert copy.store_uri() == copy.record.store == f"sqlite:///{tmp_path}/copy/mlflow.db"
    with pytest.raises(RequestError, match=r"/alone' is a copy of sweep .*/a/result/mine, whose"):
        alone.store_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert alone.store_uri() == f"sqlite:///{Path.cwd()}/other.db"
    assert copy.store_uri() == f"sqlite:///{tmp_path}/copy/mlflow.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sweep.directory.rename(tmp_path / "moved")
    assert SweepFolder(tmp_path / "moved").store_uri() == store
