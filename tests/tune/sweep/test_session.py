"""A sweep over its life: stopped, looked at, gone on with, extended, confirmed, its winner
exported, an accident mended. One Ray for all; trials compute nothing (tiny_sweep.py).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import sqlite3
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import yaml
from mlflow.entities import Run
from sqlalchemy.exc import OperationalError

from rbnn.errors import RequestError, RunFailed
from rbnn.recipe import load_recipe
from tests.tune import tiny_sweep
from tests.tune.made_runs import made_run
from tune.cli import __main__ as cli
from tune.cli.sweep import Sweep, run_sweep
from tune.cli.sweeps import status_of
from tune.cluster.ray import connected
from tune.process import Process
from tune.run.folder import RunFolder
from tune.run.listener import Listener
from tune.sweep.folder import SweepFolder, SweepRecord
from tune.sweep.session import SweepSession
from tune.sweep.stop import StopSignal, breaking
from tune.sweep.table import TrialRow, TrialTable
from tune.tracking.mirror import Mirror
from tune.tracking.reader import RunReader
from tune.tracking.registry import Registration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FILE = {
    "base": {"dataset": "digits", "epochs": 3, "lr": 0.02, "Tmin": 0.3, "Tmax": 3, "gpus": "none"},
    "space": {"lr": {"log": [0.001, 1]}},
    **{"trials": 4, "concurrent": 1, "seed": 3, "scheduler": "none"},
    **{"confirm_seeds": 0, "confirm_top": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with its own store, and a Ray."""
    folder = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(FILE))
        accidents = [[1, 0, "report", "look"], [2, 1, "journal", "stop"]]
        (folder / "tiny-accidents.json").write_text(json.dumps(accidents))
        patch.setattr(Sweep, "resume", partialmethod(Sweep.resume, trainable=tiny_sweep.trial))
        with connected():
            yield folder


@pytest.fixture(scope="module")
def stopped(place: Path) -> SweepFolder:
    """The sweep `tiny`, stopped from elsewhere in its third trial."""
    return run_sweep("sweep.yaml", name="tiny", trainable=tiny_sweep.trial).folder


@pytest.fixture(scope="module")
def finished(stopped: SweepFolder) -> SweepFolder:
    """The same, gone on with to its end."""
    Sweep(stopped).resume()
    return stopped


def states(study: str = "tiny", storage: str = "sqlite:///result/tiny/optuna.db") -> list[str]:
    return [t.state.name for t in optuna.load_study(study_name=study, storage=storage).trials]


def runs(kind: str = "trial") -> list[Run]:
    reader = RunReader.open()
    return reader.children(reader.sweep_run("tiny").info.run_id, kind)


def steps(reader: RunReader, found: list[Run]) -> list[list[int]]:
    """The epochs of each run that a store holds."""
    history = reader.client.get_metric_history
    return [[point.step for point in history(run.info.run_id, "val/top1")] for run in found]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What a command prints; it must end with `status`."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == status
    return capsys.readouterr().out


@pytest.fixture
def session(tmp_path: Path) -> SweepSession:
    """A session whose parts the test puts in place."""
    folder = SweepFolder(tmp_path)
    folder.write(SweepRecord(id="ab" * 16, kind="sweep", name="look"))
    made: Any = Mock(name="plan")
    return SweepSession(made, folder, Listener(), "", tiny_sweep.trial)


def test_a_signal_while_ray_is_ended_changes_nothing(
    session: SweepSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = TrialRow(0, {}, "", "complete", 3, 50.0, 50.0)
    table, stop = TrialTable("look", 1, 3, {0: best}), StopSignal()
    monkeypatch.setattr(session, "_search", lambda: (table, stop))
    session.ray.callback(Mock(side_effect=KeyboardInterrupt))
    assert session.run() is stop and session.folder.record.state == "finished"


FULL, CLOSED = OSError(errno.ENOSPC, "Full"), OSError(errno.EROFS, "Read-only file system")
LOCKED = OperationalError("", {}, sqlite3.OperationalError("locked"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FULL, "no more: Full; make room, then: rbnn res"),
        (CLOSED, "file system; make it writable, then: rbnn res"),
        (LOCKED, "any more: locked; when it"),
    ],
)
def test_a_disk_or_a_storage_that_takes_no_more_is_one_line(
    error: Exception, text: str, session: SweepSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_search", breaking(Mock(side_effect=error, __name__="search")))
    with pytest.raises(RunFailed, match=text):
        session.run()
    record = session.folder.record
    assert record.state == "failed" and "Error" not in record.cause


def test_it_is_seen_while_it_runs_and_a_stop_from_elsewhere_ends_it_cleanly(
    stopped: SweepFolder, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = json.loads((place / "look.json").read_text())
    counts, best = seen["trials"], seen["best"]["trial"]
    known = seen["state"], counts["complete"], counts["running"], best
    assert known == ("running", 1, 1, 0) and seen["finish"] and seen["cpu_hours"] > 0
    assert (stopped.state, status_of(Sweep(stopped))) == ("stopped", 130)
    assert states() == ["COMPLETE", "COMPLETE", "WAITING"]
    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED", "KILLED"]
    text = said(capsys, "status", "tiny")
    assert "sweep tiny: stopped (stopped by rbnn stop); 2 of 4 trials done (2 complete" in text
    assert "rbnn resume tiny" in text
    assert said(capsys, "stop", "tiny") == "sweep tiny has ended already: stopped\n"


def test_it_goes_on_where_it_was(finished: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert states() == ["COMPLETE"] * 4
    assert [run.info.status for run in runs()] == ["FINISHED"] * 4
    assert steps(RunReader.open(), runs()) == [[0, 1, 2]] * 4
    assert RunReader.open().sweep_run("tiny").info.status == "FINISHED"
    assert "tiny" in said(capsys, "status")
    assert '"state": "finished"' in said(capsys, "status", "--json")
    assert said(capsys, "doctor").startswith("nothing is wrong")


@pytest.mark.usefixtures("finished")
def test_its_winner_is_a_recipe_for_replay(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "best", "tiny", "--export", "winner.yaml")
    assert "unconfirmed: one run with one seed" in text
    assert "run it: rbnn replay winner.yaml" in text
    best = max(runs(), key=lambda run: run.data.metrics["val/top1"])
    assert load_recipe("winner.yaml") == RunReader.open().recipe_of(best.info.run_id)
    assert json.loads(said(capsys, "best", "tiny", "--json"))["run"] == best.info.run_id


def test_an_accident_is_found_and_mended(
    finished: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, victim = RunReader.open(), runs()[1].info.run_id
    before = reader.client.get_metric_history(victim, "val/top1")
    reader.client.update_run(victim, status="RUNNING")
    dead = {**dataclasses.asdict(Process.current()), "pid": 2**22 + 1, "started": "1"}
    finished.update(state="running", process=dead)
    RunFolder(finished.directory / "trials" / "0002").update(state="killed")
    (finished.directory / "trials" / "0001" / ".last.ckpt.1.partial").touch()
    text = said(capsys, "doctor", status=1)
    assert "trial 2 is complete, and its folder says killed" in text
    assert "its MLflow runs do not say what their folders say: ., trials/0001" in text
    assert "died without noting an end" in text and "was never finished" in text
    assert "4 found, all put right" in said(capsys, "doctor", "--fix").replace("5 found", "4 found")
    assert said(capsys, "doctor").startswith("nothing is wrong")
    assert [run.info.status for run in runs()] == ["FINISHED"] * 4
    after = reader.client.get_metric_history(victim, "val/top1")
    assert [(p.step, p.value) for p in after] == [(p.step, p.value) for p in before]


def test_a_store_that_was_lost_is_filled_again(
    finished: SweepFolder, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = f"sqlite:///{place}/second.db"
    assert "5 runs of result are in MLflow" in said(capsys, "sync", "result", "--to", second)
    reader, known = RunReader.open(second), finished.record.store
    parent = reader.sweep_run("tiny").info
    assert parent.status == "KILLED"  # the accident before was its last session
    children = reader.children(parent.run_id)
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    assert steps(reader, children) == [[0, 1, 2]] * 4
    finished.update(store=second)
    reader.client.delete_run(parent.run_id)
    capsys.readouterr()
    Sweep(finished).resume()
    assert "was deleted; it is restored" in capsys.readouterr().out
    finished.update(store=known)
    said(capsys, "sync", "result/tiny")


def test_a_run_whose_process_is_gone_is_found_and_ended(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror, elsewhere = Mirror.open(), place / "elsewhere"
    alive, dead, here = made_run(elsewhere), made_run(elsewhere), made_run(place / "result")
    for run in (dead, here):
        run.update(process={**dataclasses.asdict(Process.current()), "started": "1"})
    ids = [mirror.sync(run.directory) for run in (alive, dead, here)]
    text = said(capsys, "doctor", status=1)
    assert f"run {ids[1][:8]} (train {dead.info.name}) is RUNNING, and its process" in text
    assert f"run {ids[2][:8]} in {here.directory.relative_to(place)} is running, and its" in text
    assert "2 found, all put right" in said(capsys, "doctor", "--fix")
    found = [mirror.client.get_run(run_id).info.status for run_id in ids]
    assert found == ["RUNNING", "KILLED", "KILLED"] and here.info.state == "killed"
    shutil.rmtree(here.directory)
    alive.end("complete")
    mirror.sync(alive.directory)


def test_a_study_that_is_gone_is_seen(finished: SweepFolder) -> None:
    study = finished.directory / "optuna.db"
    kept = study.read_bytes()
    study.unlink()
    with pytest.raises(RequestError, match="the Optuna study of sweep 'tiny' is gone"):
        Sweep(finished).resume()
    study.write_bytes(kept)


def test_trials_at_once_wait_for_a_place_and_none_starves(place: Path) -> None:
    """As many at once as there are cores, more trials than that, and a storage of one's own."""
    space, storage = {"lr": {"choice": [0.01, 0.02, 0.03, 0.04, 0.05]}}, f"sqlite:///{place}/all.db"
    keys = {"space": space, "sampler": "grid", "trials": 5, "concurrent": 2, "storage": storage}
    (place / "crowd.yaml").write_text(yaml.safe_dump(FILE | keys))
    assert run_sweep("crowd.yaml", name="crowd", trainable=tiny_sweep.trial).state == "finished"
    assert states("crowd", storage) == ["COMPLETE"] * 5
    assert not (place / "result" / "crowd" / "optuna.db").exists()


def test_it_is_extended_on_the_same_history(finished: SweepFolder) -> None:
    before = [run.info.run_id for run in runs()]
    assert cli.main(["extend", "tiny", "--trials", "2"]) == 0
    assert [run.info.run_id for run in runs()][:4] == before and len(runs()) == 6
    assert len({run.data.params["lr"] for run in runs()}) == 6
    # Trials without end, for three seconds.
    assert cli.main(["extend", "tiny", "--hours", "0.0008"]) == 0
    assert (finished.state, finished.record.cause) == ("finished", "time budget used up")
    assert len(runs()) >= 6
    assert cli.main(["extend", "tiny", "--trials", "0"]) == 2


@pytest.mark.usefixtures("finished")
def test_the_best_settings_are_confirmed_with_fresh_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = said(capsys, "resume", "tiny", "--confirm-seeds", "2")
    assert "against the documented default" in text and "exceeds the noise" in text
    assert "unconfirmed" not in text
    confirmed = runs("confirm")
    assert sorted(int(run.data.params["seed"]) for run in confirmed) == [1235, 1235, 1236, 1236]
    assert {run.data.tags["rbnn.confirms"] for run in confirmed} >= {"0"}
    assert {run.info.status for run in confirmed} == {"FINISHED"}
    assert len(states("tiny.confirm")) == 4
    winner: dict[str, Any] = json.loads(said(capsys, "best", "tiny", "--json"))
    assert len(winner["confirmed"]["val/top1"]) == 2
    assert f"rbnn replay {winner['run'][:8]}" in text
    stays = Registration(False, "", "stays")
    monkeypatch.setattr("tune.tracking.registry.register_champion", lambda *given: stays)
    best = json.loads(said(capsys, "best", "tiny", "--register", "--json", status=1))
    assert best["registered"] == {"champion": False, "version": "", "text": "stays"}
    # Nothing is left to do, and nothing is done twice.
    assert "unconfirmed" not in said(capsys, "resume", "tiny")
    assert len(runs("confirm")) == 4
