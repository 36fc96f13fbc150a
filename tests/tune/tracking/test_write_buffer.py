"""Writes while the store is away: nothing is lost, nothing is twice, and a run ends whatever
happens.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.process import Process
from tune.run.record import record_of
from tune.tracking.mirror import Tracker
from tune.tracking.pending import pending_files, upload_pending
from tune.tracking.store_writes import Write
from tune.tracking.write_buffer import PENDING, WriteBuffer, read_pending

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


class Store:
    """What stands for an Applier: takes writes while it is there."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.there.set()
        self.taken: list[int] = []
        self.given_up = threading.Event()

    def apply(self, write: Write) -> None:
        if not self.there.is_set():
            raise ConnectionError("refused")
        if write.get("bad"):
            raise MlflowException("no such thing", INVALID_PARAMETER_VALUE)
        self.taken.append(write["number"])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.tracking.write_buffer.FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("tune.tracking.write_buffer.LONGEST_RETRY_S", 0.02)


def buffer_of(store: Store, folder: Path) -> tuple[WriteBuffer, list[str]]:
    """A buffer and what it says; `store.given_up` is set when it first says something."""
    said: list[str] = []
    applier: Any = store

    def say(line: str) -> None:
        said.append(line)
        store.given_up.set()

    return WriteBuffer(
        applier, folder, {"experiment": "rbnn", "store": "s"}, store.there.is_set, say=say
    ), said


def write(number: int, **more: Any) -> Write:
    return {"op": "tags", "run": "r", "number": number, **more}


def test_a_store_that_goes_away_for_a_while_gets_everything_in_order(tmp_path: Path) -> None:
    store = Store()
    buffer, said = buffer_of(store, tmp_path)
    buffer.put(write(0))
    assert buffer.flush(10)
    store.there.clear()
    for number in range(1, 4):
        buffer.put(write(number))
    assert store.given_up.wait(10)
    buffer.put(write(4))
    assert not buffer.flush(0.05)
    assert [each["number"] for each in read_pending(tmp_path / PENDING)] == [1, 2, 3, 4]
    store.there.set()
    assert buffer.flush(10)
    buffer.put(write(5))
    assert buffer.close(10)
    assert store.taken == list(range(6))
    assert not (tmp_path / PENDING).exists()
    assert "does not answer" in said[0] and "has everything" in said[1]


def test_a_store_that_stays_away_lets_the_run_end_and_leaves_a_file(tmp_path: Path) -> None:
    store = Store()
    store.there.clear()
    buffer, said = buffer_of(store, tmp_path / "new")
    buffer.put(write(0))
    assert store.given_up.wait(10)
    buffer.put(write(1))
    assert buffer.close(0.05) is False
    assert [each["number"] for each in read_pending(tmp_path / "new" / PENDING)] == [0, 1]
    assert pending_files(tmp_path) == [tmp_path / "new" / PENDING]
    assert "rbnn doctor --fix uploads it" in said[-1]


def test_what_the_store_refuses_is_said_and_holds_nothing_up(tmp_path: Path) -> None:
    store = Store()
    buffer, said = buffer_of(store, tmp_path)
    buffer.put(write(0, bad=True))
    buffer.put(write(1))
    assert buffer.close(10)
    assert store.taken == [1]
    assert said == ["the MLflow store refuses to record tags of run r: no such thing"]


def test_a_full_queue_goes_through_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.write_buffer.MAX_QUEUED", 2)
    store, taking, go_on = Store(), threading.Event(), threading.Event()
    apply = store.apply

    def slowly(each: Write) -> None:
        taking.set()
        assert go_on.wait(10)
        apply(each)

    monkeypatch.setattr(store, "apply", slowly)
    buffer, said = buffer_of(store, tmp_path)
    buffer.put(write(0))
    assert taking.wait(10)
    for number in range(1, 6):
        buffer.put(write(number))
    assert (tmp_path / PENDING).is_file()
    go_on.set()
    assert buffer.close(10)
    assert list(dict.fromkeys(store.taken)) == list(range(6)) and said == []


def test_what_an_earlier_process_left_is_carried_out_first(tmp_path: Path) -> None:
    store = Store()
    store.there.clear()
    buffer, _ = buffer_of(store, tmp_path)
    buffer.put(write(0))
    buffer.put(write(1))
    assert buffer.close(0.05) is False
    with (tmp_path / PENDING).open("a") as file:
        file.write('{"op": "tags", "num')  # cut short by a kill
    again, _ = buffer_of(store, tmp_path)
    again.put(write(2))
    assert not again.flush(0.05)
    store.there.set()
    assert again.close(10)
    assert store.taken == [0, 1, 2] and not (tmp_path / PENDING).exists()


def test_what_another_store_missed_is_not_given_to_this_one(tmp_path: Path) -> None:
    (tmp_path / PENDING).write_text(
        '{"format": "rbnn-pending", "version": 1, "store": "http://other"}\n'
    )
    with pytest.raises(
        RequestError, match=r"the MLflow store http://other did not take.*rbnn doctor --fix$"
    ):
        buffer_of(Store(), tmp_path)


class Away:
    """An outage of a real store: the client's calls fail while it lasts."""

    def __init__(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts, self.num_calls = False, 0
        for name in (
            "create_run",
            "log_batch",
            "log_text",
            "log_inputs",
            "set_terminated",
            "set_tag",
            "search_runs",
        ):
            monkeypatch.setattr(tracker.client, name, self._failing(getattr(tracker.client, name)))
        monkeypatch.setattr(tracker, "_answers", lambda: not self.lasts)

    def _failing(self, call: Any) -> Any:
        def failing(*given: Any, **named: Any) -> Any:
            if self.lasts:
                self.num_calls += 1
                raise ConnectionError("refused")
            return call(*given, **named)

        return failing


def record_run(tracker: Tracker, run_id: str) -> None:
    tracker.log_data(run_id, "digits", "sha256:ab", {"train": 1400})
    for epoch in range(2):
        tracker.log_epoch(
            run_id,
            {"val/top1": 10.0 * epoch, "train/loss": float("nan"), "digest": f"{epoch:x}"},
            epoch,
        )
    tracker.set_tags(run_id, {"mlflow.note.content": f"again: rbnn replay {run_id[:8]}"})
    tracker.finish(run_id, "FINISHED")


def test_a_run_begun_and_ended_while_the_store_was_away_is_uploaded_later_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker.open(uri=uri)
    with monkeypatch.context() as patches:
        away = Away(tracker, patches)
        away.lasts = True
        with tracker.buffered(tmp_path / "run", patience_s=0.05):
            ours = tracker.start_run("train", "late", recipe=Recipe(dataset="digits", epochs=2))
            assert away.num_calls == 0, "a client that tries for long would hold training up"
            record_run(tracker, ours)
            assert pending_files(tmp_path) == [], "a file that this process still fills"
    file = tmp_path / "run" / PENDING
    file.write_text(file.read_text().replace(str(Process.current()), "elsewhere 1 1"))
    assert pending_files(tmp_path) == [file]
    assert json.loads(file.read_text().partition("\n")[0])["experiment"] == "rbnn"
    kept = file.read_text()
    assert upload_pending(file, uri=uri).refused == [] and not file.exists()
    file.write_text(kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    assert upload_pending(file).refused == [], "it went to another store than it was meant for"
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    assert run.info.run_id != ours and run.info.status == "FINISHED"
    assert (
        tracker.find_run(ours[:8]).info.run_id
        == tracker.find_run(ours).info.run_id
        == run.info.run_id
    )
    assert run.data.tags["mlflow.note.content"] == f"again: rbnn replay {run.info.run_id[:8]}"
    assert run.data.tags["rbnn.epochs"] == "2"
    record = record_of(tracker, run.info.run_id)
    assert [(e.epoch, e.digests, e.metrics["val/top1"]) for e in record.epochs] == [
        (0, {"digest": "0"}, 0.0),
        (1, {"digest": "1"}, 10.0),
    ]
    assert len(tracker.client.get_metric_history(run.info.run_id, "val/top1")) == 2


def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / PENDING
    file.write_text('{"format": "other"}\n')
    with pytest.raises(RequestError, match="holds no pending records"):
        upload_pending(file)
    file.write_text('{"format": "rbnn-pending", "version": 1}\nnonsense\n{}\n')
    with pytest.raises(RequestError, match="is damaged in line 2"):
        upload_pending(file)
    assert file.exists()
    file.write_text(
        '{"format": "rbnn-pending", "version": 1, "store": "postgresql://ann:***@db/runs"}\n'
    )
    with pytest.raises(RequestError, match="set MLFLOW_TRACKING_URI to it, with its password"):
        upload_pending(file)
