"""Where a sweep's trials are kept: a storage that cannot be used is told in one line, and no sweep
takes another's trials.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from rbnn.errors import RequestError
from tune.sweep import storage as storage_module
from tune.sweep.storage import PatientCursor, open_storage
from tune.sweep.study import SINCE, VALUES, Study, begin_study


def test_a_storage_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("no database at all, " * 100)
    file, away = f"sqlite:///{tmp_path}/optuna.db", "postgresql://ann:hidden@127.0.0.1:9/rbnn"
    for url in (away, file, "nosuch://x"):
        text = r"^storage .* cannot be used: .*; see that it is there"
        with pytest.raises(RequestError, match=text) as refusal:
            Study.existing(url, "look")
        assert "\n" not in str(refusal.value) and "hidden" not in str(refusal.value)


def test_a_sweep_never_takes_up_the_trials_of_another_of_its_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    begin_study(url, "look", "ab" * 16)
    with pytest.raises(RequestError, match=r"holds a sweep 'look' already; choose another --name"):
        begin_study(url, "look", "cd" * 16)
    begin_study(url, "look-2", "cd" * 16)
    Study(url, "look").belongs_to("ab" * 16)
    with pytest.raises(RequestError, match=r"holds another sweep named 'look'"):
        Study(url, "look").belongs_to("cd" * 16)


def test_what_others_line_up_outside_the_space_is_refused_in_one_line() -> None:
    study, said = Study(None, "look"), []
    space = {"lr": FloatDistribution(0.01, 1), "momentum": CategoricalDistribution([0.9, 0.5])}
    study.only_within(space, said.append)
    for given in ({"lr": 0.1}, {"lr": 0.05, "momentum": 0.7}, {"lr": 5.0}, {"lrr": 0.1}):
        study.study.enqueue_trial(given)
    assert study.take_interrupted() is None
    assert [trial.state.name for trial in study.trials()] == ["WAITING", "FAIL", "FAIL", "FAIL"]
    assert len(said) == 3 and said[1].startswith("trial 2: {'lr': 5.0}, lined up from outside, is")
    assert study.finished == []


def test_what_others_ended_takes_no_more_scores() -> None:
    study = Study(None, "look")
    study.add(TrialState.WAITING, {}, {}, {VALUES: {}})
    study.take_interrupted()
    study.study.tell(0, state=TrialState.FAIL)
    study.note(0, 1, 50.0)
    study.tag(0, "cause", "x")
    assert study.has_ended(0) and study.trials()[0].intermediate_values == {}


def test_a_locked_file_is_waited_for_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, said = sqlite3.connect(tmp_path / "all.db", isolation_level=None), []

    def word(text: str) -> None:
        said.append(text)
        holder.execute("ROLLBACK")

    monkeypatch.setattr(storage_module, "warn", word)
    monkeypatch.setattr(storage_module, "LOCK_WAIT_S", 0.01)
    study = Study(f"sqlite:///{tmp_path}/all.db", "look")
    for kind in ("IMMEDIATE", "EXCLUSIVE"):
        holder.execute(f"BEGIN {kind}")
        study.add(TrialState.WAITING, {}, {}, {VALUES: {}})
    assert said == ["the Optuna storage is locked by another program; waiting for it"] * 2
    assert len(study.trials()) == 2
    monkeypatch.setattr(storage_module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(storage_module, "warn", said.append)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(storage_module.STORAGE_ERRORS):
        study.add(TrialState.WAITING, {}, {}, {VALUES: {}})


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [
        ("v0.9.0.a", r"set up by optuna .*; back it up, then: optuna storage upgrade --storage s"),
        ("v99.0.a", r"; a newer Optuna has written it; install that version, or name another"),
    ],
)
def test_a_storage_of_another_optuna_is_refused_with_its_remedy(
    revision: str, remedy: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    open_storage(url)
    with sqlite3.connect(tmp_path / "all.db") as file:
        file.execute("UPDATE alembic_version SET version_num = ?", [revision])
    with pytest.raises(RequestError, match=remedy) as refusal:
        open_storage(url)
    assert "\n" not in str(refusal.value) and "pip install" not in str(refusal.value)


def test_the_time_of_a_running_trial_is_the_same_in_every_time_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = Study(None, "look")
    study.add(TrialState.WAITING, {}, {}, {VALUES: {}})
    study.take_interrupted()
    study.tag(0, SINCE, time.time() - 100)
    found = []
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.append(study.busy_s(running=True))
    assert found == pytest.approx([100.0] * 3, abs=30)


def test_who_may_not_write_to_a_study_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    Study(storage, "one")

    def execute(cursor: sqlite3.Cursor, sql: str, *given: Any) -> Any:
        assert not sql.startswith(("INSERT", "UPDATE", "DELETE"))
        return sqlite3.Cursor.execute(cursor, sql, *given)

    monkeypatch.setattr(PatientCursor, "execute", execute)
    study = Study.existing(storage, "one")
    assert study and study.trials() == []


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    assert Study.existing(f"sqlite:///{tmp_path}/none.db", "look") is None
    open_storage(f"sqlite:///{tmp_path}/made.db")
    assert [path.name for path in tmp_path.iterdir()] == ["made.db"]
