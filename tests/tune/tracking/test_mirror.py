"""Tracking: runs as recorded in a SQLite store, nothing twice after a resume, and one line where a
store does not answer.
"""

from __future__ import annotations

import getpass
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.run.environment import PACKAGES, environment, run_environment, source_changes
from tune.run.verdict import environment_differences
from tune.serve.mlflow import free_port, mlflow_server
from tune.tracking.address import check_reachable, tracking_uri
from tune.tracking.mirror import Tracker
from tune.uris import shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

RECIPE = Recipe(dataset="cifar10", epochs=3, lr_type="step", lr_decay_step=(1, 2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: creating one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store: str) -> Tracker:
    return Tracker.open(uri=store)


def epoch_metrics(epoch: int) -> dict[str, object]:
    return {
        "train/loss": 2.0 - epoch,
        "val/top1": 10.0 * epoch,
        "lr": 0.1,
        "digest/weights": f"sha256:{epoch}",
    }


def start(tracker: Tracker, name: str = "run") -> str:
    return tracker.start_run("train", name, recipe=RECIPE)


def test_default_store_is_a_database_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other/runs.db?timeout=9")
    assert tracking_uri() == f"sqlite:///{tmp_path}/other/runs.db?timeout=9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org:5000")
    assert tracking_uri() == "http://example.org:5000"


def test_a_run_records_its_recipe_its_names_and_where_it_ran(tracker: Tracker) -> None:
    tags = {"rbnn.recipe": "quickstart"}
    run_id = tracker.start_run("train", "first", recipe=RECIPE, tags=tags, description="why")
    run = tracker.find_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "first"
    expected = {
        "rbnn.kind": "train",
        "rbnn.recipe": "quickstart",
        "mlflow.note.content": "why",
        "mlflow.user": getpass.getuser(),
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.params.keys() == RECIPE.to_dict().keys()
    assert run.data.params["lr_decay_step"] == "1 2"
    assert run.data.params["warm_up"] == "false"
    assert run.data.params["resume"] == ""
    assert tracker.recipe_of(run_id) == RECIPE
    assert environment_differences(tracker.environment_of(run_id), run_environment(RECIPE)) == []
    files = {entry.path for entry in tracker.client.list_artifacts(run_id)}
    assert files - {"source_changes.diff"} == {"recipe.yaml", "environment.yaml"}
    assert ("source_changes.diff" in files) is bool(source_changes())


def test_artifacts_lie_beside_the_database_and_the_experiment_says_what_it_is(
    tracker: Tracker, store: str
) -> None:
    run = tracker.find_run(start(tracker))
    assert (
        "rbnn ui"
        in tracker.client.get_experiment(tracker.experiment_id).tags["mlflow.note.content"]
    )
    assert run.info.artifact_uri.startswith(
        f"file://{Path(store.removeprefix('sqlite:///')).parent}/mlartifacts/"
    )


def test_an_epoch_is_recorded_once_also_after_the_process_died(
    tracker: Tracker, store: str
) -> None:
    run_id = start(tracker)
    for epoch in range(2):
        tracker.log_epoch(run_id, epoch_metrics(epoch), epoch)
    restarted = Tracker.open(uri=store)
    restarted.resume_run(run_id)
    for epoch in (1, 2, 2):
        restarted.log_epoch(run_id, epoch_metrics(epoch), epoch)
    points = restarted.client.get_metric_history(run_id, "val/top1")
    assert [(point.step, point.value) for point in points] == [(0, 0.0), (1, 10.0), (2, 20.0)]
    path = restarted.client.download_artifacts(run_id, "digests.txt")
    assert Path(path).read_text().splitlines() == [
        f"{epoch} digest/weights sha256:{epoch}" for epoch in range(3)
    ]


def test_text_that_is_no_digest_is_refused_and_a_diverged_loss_is_kept(tracker: Tracker) -> None:
    run_id = start(tracker)
    with pytest.raises(TypeError, match="'note' is 'text'"):
        tracker.log_epoch(run_id, {"lr": 0.1, "note": "text"}, 0)
    tracker.log_epoch(run_id, {"train/loss": math.nan}, 0)
    assert math.isnan(tracker.find_run(run_id).data.metrics["train/loss"])


def test_ends_are_told_truthfully_and_a_resume_takes_them_back(tracker: Tracker) -> None:
    run_id = start(tracker)
    tracker.finish(
        run_id, "FAILED", cause="no answer from postgresql://ann:geheim@db/x?sslpassword=geheim"
    )
    assert "geheim" not in tracker.find_run(run_id).data.tags["rbnn.cause"]
    tracker.finish(run_id, "FAILED", cause="NonFiniteLoss: epoch 3")
    failed = tracker.find_run(run_id)
    assert (failed.info.status, failed.data.tags["rbnn.cause"]) == (
        "FAILED",
        "NonFiniteLoss: epoch 3",
    )
    tracker.resume_run(run_id)
    resumed = tracker.find_run(run_id)
    assert resumed.info.status == "RUNNING"
    assert "rbnn.cause" not in resumed.data.tags
    with pytest.raises(ValueError, match="KILLED, not FINISHED"):
        tracker.finish(run_id, "FINISHED", pruned=True)
    tracker.finish(run_id, "KILLED", pruned=True)
    pruned = tracker.find_run(run_id)
    assert (pruned.info.status, pruned.data.tags["rbnn.pruned"]) == ("KILLED", "true")


def test_data_and_checkpoints_are_recorded(tracker: Tracker, tmp_path: Path) -> None:
    run_id = start(tracker)
    fingerprint = "sha256:" + "ab" * 32
    tracker.log_data(run_id, "cifar10", fingerprint, {"train": 45000, "validation": 5000})
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    tracker.log_checkpoints(run_id, [tmp_path / "last.ckpt"])
    tracker.log_dict(run_id, {"verdict": "equal"}, "verdict.json")
    run = tracker.find_run(run_id)
    seen = {
        entry.tags[0].value: json.loads(entry.dataset.profile)["num_rows"]
        for entry in run.inputs.dataset_inputs
    }
    assert seen == {"train": 45000, "validation": 5000}
    assert {entry.dataset.digest for entry in run.inputs.dataset_inputs} == {("ab" * 32)[:36]}
    assert run.data.tags["rbnn.data_fingerprint"] == fingerprint
    assert [entry.path for entry in tracker.client.list_artifacts(run_id, "checkpoints")] == [
        "checkpoints/last.ckpt"
    ]


def test_runs_are_found_by_id_by_its_beginning_and_refused_in_one_line(tracker: Tracker) -> None:
    run_id = start(tracker)
    assert tracker.find_run(run_id).info.run_id == run_id
    assert tracker.find_run(run_id[:12]).info.run_id == run_id
    for unknown in ("0" * 32, "0123456789", "", "not-an-id", "x' or 'a' = 'a"):
        with pytest.raises(RequestError, match=r"^run '") as refusal:
            tracker.find_run(unknown)
        assert "\n" not in str(refusal.value)
    without = tracker.start_run("evaluate", "bare", recipe=None)
    with pytest.raises(RequestError, match=r"holds no recipe\.yaml"):
        tracker.recipe_of(without)


def test_a_sweep_is_found_by_name_and_by_id_and_knows_its_trials(tracker: Tracker) -> None:
    parent = tracker.start_run("sweep", "it's small", recipe=None)
    tags = {"rbnn.sweep": "it's small", "rbnn.trial": "0"}
    trial = tracker.start_run("trial", "trial 0", recipe=RECIPE, parent=parent, tags=tags)
    start(tracker)
    assert tracker.sweep_run("it's small").info.run_id == parent
    assert tracker.sweep_run(parent[:12]).info.run_id == parent
    assert [run.info.run_id for run in tracker.children(parent)] == [trial]
    for unknown in ("smal", trial):
        with pytest.raises(RequestError, match="known: it's small"):
            tracker.sweep_run(unknown)


def test_environment_holds_a_fixed_list_of_names() -> None:
    seen = environment()
    assert set(PACKAGES) < seen.keys()
    assert seen["torch"]
    assert int(seen["cores"]) >= 1
    assert environment() is seen


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
    assert time.monotonic() - begin < 4
    assert shown(uri) in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, by far")
    with pytest.raises(RequestError, match="file is not a database"):
        Tracker.open(uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_a_deleted_experiment_is_refused_with_the_way_back(tracker: Tracker, store: str) -> None:
    other = Tracker.open("gone", uri=store)
    other.client.delete_experiment(other.experiment_id)
    with pytest.raises(
        RequestError, match=f"mlflow experiments restore --experiment-id {other.experiment_id}"
    ):
        Tracker.open("gone", uri=store)


def test_a_fresh_store_opens_without_a_word_and_mlflow_is_loaded_only_then(tmp_path: Path) -> None:
    code = (
        "import sys; from tune.tracking.mirror import Tracker; import tune.serve.ui; assert "
        "'mlflow' not in sys.modules;"
        "from rbnn.recipe import Recipe;"
        f"tracker = Tracker.open(uri='sqlite:///{tmp_path}/mlflow.db');"
        "tracker.recipe_of(tracker.start_run('train', 'r', recipe=Recipe()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
def test_a_server_takes_the_same_calls(tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 5300)
    with mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", port):
        tracker = Tracker.open(uri=f"http://127.0.0.1:{port}")
        test_a_run_records_its_recipe_its_names_and_where_it_ran(tracker)
        test_an_epoch_is_recorded_once_also_after_the_process_died(tracker, tracker.uri)
        test_ends_are_told_truthfully_and_a_resume_takes_them_back(tracker)
        test_data_and_checkpoints_are_recorded(tracker, tmp_path)
        test_runs_are_found_by_id_by_its_beginning_and_refused_in_one_line(tracker)
        test_a_sweep_is_found_by_name_and_by_id_and_knows_its_trials(tracker)
    with pytest.raises(RequestError, match="Connection refused"):
        Tracker.open(uri=tracker.uri)
