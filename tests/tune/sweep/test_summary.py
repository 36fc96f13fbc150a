"""When a sweep will have ended, as `rbnn status` says while it runs elsewhere; and sweeps that
cannot be looked at.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from optuna.trial import TrialState

from tune.cli import __main__ as cli
from tune.process import Process
from tune.run.listener import Listener
from tune.sweep import session
from tune.sweep.config import parse_sweep
from tune.sweep.folder import SWEEP_FILE, SweepFolder, SweepRecord
from tune.sweep.session import SweepSession
from tune.sweep.study import VALUES, Study
from tune.sweep.summary import look_at
from tune.sweep.table import TrialTable

KEYS = {"base": {"dataset": "digits", "epochs": 10}, "space": {"lr": {"log": [0.01, 1]}}}
FILE = parse_sweep({"name": "look", **KEYS}, Path())


@pytest.mark.parametrize(
    ("done", "confirmed", "to_confirm", "budget_s", "seconds"),
    [
        # The search, then 2 seeds of the best three settings and of the documented one.
        (2, 0, 0, None, 2 * 10 + 8 * 10),
        (4, 0, 8, None, 8 * 10),
        (4, 20, 8, None, 60),
        (2, 0, 0, 25.0, 5 + 8 * 10),
    ],
)
def test_the_finish_time_counts_the_confirmation(
    done: int, confirmed: int, to_confirm: int, budget_s: float | None, seconds: float,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / SWEEP_FILE).write_text(yaml.safe_dump(FILE.to_dict()))
    folder, process = SweepFolder(tmp_path), asdict(Process.current())
    known = {"id": "ab" * 16, "name": "look", "trials": 4, "confirm_seeds": 2, "budget_s": budget_s}
    known |= {"recipe": FILE.baseline.to_dict(), "process": process, "sessions": 1}
    spent = {"session_began": time.time(), "used_s": 10.0 * done + confirmed}
    folder.write(SweepRecord(**known, **spent))
    studies = {name: Study(None, name) for name in ("look", "look.confirm")}
    monkeypatch.setattr(Study, "existing", lambda storage, name: studies[name])
    for number in range(done):
        studies["look"].add(TrialState.RUNNING, {}, {}, {VALUES: {"lr": 0.1}}, {10: 50.0})
        studies["look"].end(number, TrialState.COMPLETE, 50.0)
    for _ in range(to_confirm):
        studies["look.confirm"].add(TrialState.WAITING, {}, {}, {VALUES: {}})
    if confirmed:
        studies["look.confirm"].note(0, confirmed, 50.0)
    finish = look_at(folder).finish
    assert finish is not None and finish - time.time() == pytest.approx(seconds, abs=1)
    folder.update(state="stopped")
    assert look_at(folder).finish is None


@pytest.mark.parametrize(
    ("trials", "num_seeds", "num_runs"), [(4, 2, 8), (4, 0, 0), (2, 2, 4), (None, 2, 8)]
)
def test_the_terminals_finish_time_counts_it_too(
    trials: int | None, num_seeds: int, num_runs: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tables: list[TrialTable] = []
    phase = SimpleNamespace(study=Study(None, "look"))
    monkeypatch.setattr(session, "search_phase", lambda *given: phase)
    monkeypatch.setattr(SweepSession, "_repair", lambda *given: None)
    monkeypatch.setattr(SweepSession, "_run_phase", lambda self, phase, t, stop: tables.append(t))
    record = SweepRecord(name="look", trials=trials, confirm_seeds=num_seeds, budget_s=60.0)
    plan = SimpleNamespace(config=FILE, recipe=FILE.baseline, directory=tmp_path)
    folder = SimpleNamespace(record=record, stop_file=tmp_path / "stop", storage_url=str)
    SweepSession(plan, folder, Listener(), "", None)._search()  # type: ignore[arg-type]
    assert [(table.epochs_after, table.budget_s) for table in tables] == [(10 * num_runs, 60.0)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two sweeps: the storage of `away` does not answer."""
    monkeypatch.chdir(tmp_path)
    for name, storage in {"away": "postgresql://ann@127.0.0.1:9/rbnn", "here": ""}.items():
        folder = SweepFolder(tmp_path / "result" / name)
        folder.directory.mkdir(parents=True)
        (folder.directory / SWEEP_FILE).write_text(yaml.safe_dump(FILE.to_dict()))
        store, recipe = f"sqlite:///{tmp_path}/mlflow.db", FILE.baseline.to_dict()
        record = SweepRecord(id="ab" * 16, name=name, began=float(name == "here"), recipe=recipe)
        folder.write(replace(record, storage=storage, store=store, state="finished"))
    return tmp_path


def test_a_sweep_whose_storage_is_away_hides_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["away", "finished"], ["here", "finished"]]
    away = "storage postgresql://ann@127.0.0.1:9/rbnn cannot be used: "
    assert len(lines) == 4 and lines[3].startswith(f"sweep away: {away}")
    assert cli.main(["status", "--json"]) == 0
    away, here = json.loads(capsys.readouterr().out)
    assert "cannot be used" in away["error"] and here["trials"]["complete"] == 0


def test_a_sweep_whose_storage_is_away_is_told_and_the_others_are_examined(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sweep away cannot be examined: storage postgresql://ann@127.0.0.1")
    assert lines[1].startswith("sweep here: its MLflow runs do not say what their folders say: .")
