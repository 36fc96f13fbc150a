"""The mirror: MLflow says what the folder says, whoever syncs, however often, whatever died."""

from __future__ import annotations

import getpass
import math
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from rbnn.recipe import Recipe
from tests.tune.workplace import points_of
from tests.tune.writer import sync_often
from tune.run.environment import run_environment
from tune.run.folder import RunFolder, RunInfo, State
from tune.run.journal import Journal
from tune.run.verdict import environment_differences
from tune.serve.mlflow import free_port, mlflow_server
from tune.tracking.mirror import Mirror
from tune.tracking.reader import RunReader
from tune.tracking.sync import sync_all

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RECIPE = Recipe(dataset="cifar10", epochs=3, lr_type="step", lr_decay_step=(1, 2))
DATA = {"name": "cifar10", "fingerprint": "sha256:" + "ab" * 32, "sizes": {"train": 9, "val": 1}}
Begin = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def store(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def mirror(store: str) -> Mirror:
    return Mirror.open(store)


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """A run's folder, with so many epochs."""

    def run(name: str = "run", num_epochs: int = 0, **info: Any) -> RunFolder:
        folder = RunFolder.begin(tmp_path / name, RunInfo(name=name, data=DATA, **info), RECIPE)
        add_epochs(folder, num_epochs)
        return folder

    return run


def add_epochs(run: RunFolder, until: int) -> None:
    journal = Journal(run.directory)
    for epoch in range(journal.last_epoch + 1, until):
        metrics = {"train/loss": 2.0 - epoch, "val/top1": 10.0 * epoch, "digest": f"{epoch:016x}"}
        journal.append({"epoch": epoch, **metrics})


def top1(reader: RunReader, run_id: str) -> list[tuple[int, float]]:
    return points_of(reader, run_id, "val/top1")


def seen(mirror: Mirror, run: RunFolder) -> Run:
    return mirror.client.get_run(mirror.sync(run.directory))


def test_a_run_holds_its_recipe_its_names_its_data_and_where_it_ran(
    mirror: Mirror, begin: Begin
) -> None:
    run = begin(tags={"rbnn.recipe": "quickstart"}, description="why")
    found = seen(mirror, run)
    assert (found.info.status, found.info.run_name) == ("RUNNING", "run")
    expected = {
        "rbnn.id": run.info.id,
        "rbnn.kind": "train",
        "rbnn.recipe": "quickstart",
        "rbnn.data_fingerprint": DATA["fingerprint"],
        "mlflow.note.content": "why",
        "mlflow.user": getpass.getuser(),
    }
    assert expected.items() <= found.data.tags.items()
    assert found.data.params.keys() == RECIPE.to_dict().keys()
    assert [found.data.params[name] for name in ("lr_decay_step", "warm_up")] == ["1 2", "false"]
    run_id, reader = found.info.run_id, mirror.reader
    assert reader.recipe_of(run_id) == RECIPE
    assert environment_differences(reader.environment_of(run_id), run_environment(RECIPE)) == []
    assert reader.record_of(run_id).data == DATA
    assert run.mirrored["run"] == run.run_id == run_id
    place = Path(reader.uri.removeprefix("sqlite:///")).parent
    assert found.info.artifact_uri.startswith(f"file://{place}/mlartifacts/")


def test_epochs_are_there_once_whoever_syncs_and_however_often(
    mirror: Mirror, begin: Begin, store: str
) -> None:
    """Also where a kill came between the epochs and their count."""
    run = begin(num_epochs=2)
    run_id = mirror.sync(run.directory)
    mirror.client.set_tag(run_id, "rbnn.epochs", "0")
    Mirror.open(store).sync(run.directory)
    assert top1(mirror.reader, run_id) == [(0, 0.0), (1, 10.0)]
    add_epochs(run, 3)
    for other in (mirror, Mirror.open(store), Mirror.open(store), mirror):
        assert other.sync(run.directory) == run_id
    assert top1(mirror.reader, run_id) == [(0, 0.0), (1, 10.0), (2, 20.0)]
    assert sorted(mirror.reader.digests_of(run_id)) == [0, 1, 2]
    assert mirror.client.get_run(run_id).data.tags["rbnn.epochs"] == "3"


def test_ends_are_told_truthfully_and_a_resume_takes_them_back(
    mirror: Mirror, begin: Begin
) -> None:
    run = begin(num_epochs=1)
    ends: list[tuple[State, str, str]] = [
        ("complete", "FINISHED", ""),
        ("failed", "FAILED", "the loss is not finite"),
        ("pruned", "KILLED", ""),
        ("killed", "KILLED", ""),
    ]
    for state, status, cause in ends:
        run.end(state, cause)
        found = seen(mirror, run)
        tags = found.data.tags
        told = (found.info.status, tags["rbnn.state"], tags.get("rbnn.cause", ""))
        assert told == (status, state, cause)
        assert ("rbnn.pruned" in tags) == (state == "pruned")
        assert found.info.end_time == int((run.info.ended or 0) * 1000)
        run.resume()
        resumed = seen(mirror, run)
        assert resumed.info.status == "RUNNING"
        assert not {"rbnn.cause", "rbnn.pruned", "rbnn.state"} & resumed.data.tags.keys()


def test_a_run_belongs_to_its_parent_which_is_brought_there_first(
    mirror: Mirror, begin: Begin
) -> None:
    parent = begin("it's small", kind="sweep", tags={"rbnn.sweep": "it's small"})
    parent.add_points(3, {"sweep/best_top1": 80.0})
    tags = {"rbnn.sweep": "it's small", "rbnn.trial": "0"}
    info = RunInfo(name="trial 0", kind="trial", parent=parent.info.id, tags=tags)
    trial = RunFolder.begin(parent.directory / "trials" / "0000", info, RECIPE)
    child, reader = mirror.sync(trial.directory), mirror.reader
    sweep = reader.sweep_run("it's small")
    assert sweep.info.run_id == parent.mirrored["run"]
    assert [run.info.run_id for run in reader.children(sweep.info.run_id)] == [child]
    (point,) = mirror.client.get_metric_history(sweep.info.run_id, "sweep/best_top1")
    assert (point.step, point.value) == (3, 80.0)


def test_a_run_deleted_in_mlflows_pages_is_restored_and_one_renamed_experiment_keeps_it(
    mirror: Mirror, begin: Begin, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(num_epochs=1)
    run_id = mirror.sync(run.directory)
    mirror.client.delete_run(run_id)
    add_epochs(run, 2)
    run.end("complete")
    assert mirror.sync(run.directory) == run_id
    assert f"MLflow run {run_id[:8]} (run) was deleted; it is restored" in capsys.readouterr().out
    experiment = mirror.client.get_run(run_id).info.experiment_id
    mirror.client.rename_experiment(experiment, "thesis")
    try:
        assert Mirror.open(store).sync(run.directory) == run_id
    finally:
        mirror.client.rename_experiment(experiment, "rbnn")


def test_a_folder_is_behind_until_it_is_synced(mirror: Mirror, begin: Begin, store: str) -> None:
    """Numbers that are not finite, and the test set's scores, are then there too."""
    run = begin(num_epochs=1)
    Journal(run.directory).append({"epoch": 1, "val/top1": 1.0, "train/loss": math.nan})
    (run.directory / "test.json").write_text('{"test/top1": 77.0}')
    run.end("complete")
    assert mirror.lacks(run.directory)
    metrics = seen(mirror, run).data.metrics
    assert math.isnan(metrics["train/loss"]) and metrics["test/top1"] == 77.0
    assert not mirror.lacks(run.directory) and not Mirror.open(store).lacks(run.directory)
    run.update(tags={"rbnn.verdict": "equal"})
    assert mirror.lacks(run.directory)
    assert seen(mirror, run).data.tags["rbnn.verdict"] == "equal"


def test_all_runs_go_into_an_empty_store_and_say_the_same_there(
    begin: Begin, tmp_path: Path, new_store: Callable[[Path], str]
) -> None:
    runs = [begin(f"run{number}", num_epochs=number) for number in range(3)]
    for run in runs:
        run.end("complete")
    uri = new_store(tmp_path)
    for _ in range(2):
        assert sync_all(tmp_path, uri) == (3, [])
    reader = RunReader.open(uri)
    assert len(reader.search("tags.`rbnn.kind` = 'train'")) == 3
    for number, run in enumerate(runs):
        assert top1(reader, run.run_id) == [(epoch, 10.0 * epoch) for epoch in range(number)]


@pytest.mark.slow
def test_three_processes_sync_at_once_and_one_is_killed_again_and_again(
    mirror: Mirror, begin: Begin, store: str
) -> None:
    run, context = begin(), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([sync_often.__module__])
    chance = random.Random(7)

    def started(times: int) -> Any:
        begun = context.Event()
        process = context.Process(target=sync_often, args=(run.directory, store, times, begun))
        process.start()
        begun.wait()
        return process

    often = [started(40), started(40)]
    for round_number in range(20):
        add_epochs(run, 3 * (round_number + 1))
        child = started(5)
        for _ in range(chance.randrange(1, 20)):
            mirror.lacks(run.directory)  # passes a moment that depends on the machine's pace
        child.kill()
        child.join()
    for process in often:
        process.join()
        assert process.exitcode == 0
    run.end("complete")
    run_id = mirror.sync(run.directory)
    assert top1(mirror.reader, run_id) == [(epoch, 10.0 * epoch) for epoch in range(60)]
    assert len(mirror.reader.search(f"tags.`rbnn.id` = '{run.info.id}'", deleted=True)) == 1
    assert mirror.client.get_run(run_id).info.status == "FINISHED"


def test_a_fresh_store_opens_without_a_word_and_mlflow_is_loaded_only_then(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "ignore", "-m", "tests.tune.tracking.open_fresh_store"]
    given: dict[str, Any] = {"cwd": Path(__file__).parents[3], "capture_output": True}
    done = subprocess.run([*program, str(tmp_path)], text=True, check=True, **given)
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
def test_a_server_takes_the_same_calls(begin: Begin, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 5300)
    run = begin(num_epochs=2)
    run.end("complete")
    with mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", port):
        mirror = Mirror.open(f"http://127.0.0.1:{port}")
        found = seen(mirror, run)
        assert top1(mirror.reader, found.info.run_id) == [(0, 0.0), (1, 10.0)]
        assert mirror.reader.record_of(found.info.run_id[:10]).recipe == RECIPE.to_dict()
        assert not mirror.lacks(run.directory)
