"""Whole commands in their own processes, on real data, in their own stores: what a user runs, and what is then recorded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow.entities import Run

from rbnn import checkpoint
from rbnn.recipe import Recipe
from tune.tracking import Tracker

pytestmark = [
    pytest.mark.slow,
    # MLflow's own code uses what newer versions of its dependencies deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240
BASE = {
    "dataset": "digits",
    "epochs": 2,
    "batch_size": 64,
    "batch_size_test": 397,
    "lr": 0.02,
    "Tmin": 0.3,
    "Tmax": 3,
    "gpus": "none",
}


@dataclass
class Workplace:
    """A working directory with its own store, and the command `rbnn` run in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        outside = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONWARNINGS")
        kept = {name: value for name, value in os.environ.items() if name not in outside}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, running, in a process group of its own as a terminal makes one."""
        command = [sys.executable, "-m", "tune.cli", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **pipes)

    def run(self, *arguments: str, status: int = 0) -> str:
        """The command's output; it must end with `status`."""
        process = self.start(*arguments)
        output = process.communicate(timeout=TIMEOUT_S)[0]
        assert process.returncode == status, output
        return output

    def sweep_file(self, **keys: Any) -> str:
        path = self.folder / "look.yaml"
        path.write_text(yaml.safe_dump({"base": BASE, "confirm_seeds": 0, **keys}))
        return path.name

    def tracker(self) -> Tracker:
        return Tracker.open(uri=f"sqlite:///{self.folder}/mlflow.db")

    def children(self, sweep: str) -> list[Run]:
        """The trials of a sweep by number."""
        tracker = self.tracker()
        found = tracker.children(tracker.sweep_run(sweep).info.run_id)
        return sorted(found, key=lambda run: int(run.data.tags["rbnn.trial"]))

    def history(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Metric -> (step, value) in order, without the times; and the digests of the weights."""
        client = self.tracker().client
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("time/")]
        points = {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in names}
        digests = Path(client.download_artifacts(run_id, "digests.txt")).read_text().splitlines()
        return {**points, "digest": [(int(line.split()[0]), int(line.split()[-1], 16)) for line in digests]}

    def artifacts(self, run_id: str) -> set[str]:
        client = self.tracker().client
        folders = [None, "checkpoints"]
        return {entry.path for folder in folders for entry in client.list_artifacts(run_id, folder) if not entry.is_dir}


def run_id_in(output: str) -> str:
    """The id of the run that `rbnn train` or `rbnn replay` says it recorded."""
    found = re.search(r"; run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def study(folder: Path, sweep: str) -> optuna.Study:
    return optuna.load_study(study_name=sweep, storage=f"sqlite:///{folder}/result/{sweep}/optuna.db")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def swept(place: Workplace) -> Iterator[tuple[Workplace, str]]:
    """A finished sweep of four trials, and its output: one learns, one is stopped, one fails, one goes as it goes."""
    file = place.sweep_file(
        space={"lr": {"choice": [0.02, 0.03, 1e-9, 1e30]}},
        sampler="grid",
        scheduler={"name": "asha", "grace_period": 1, "reduction_factor": 3},
        max_failures=0,
    )
    yield place, place.run("sweep", file, "--name", "tiny")


def by_rate(place: Workplace) -> dict[float, Run]:
    return {float(run.data.params["lr"]): run for run in place.children("tiny")}


def test_a_sweep_is_recorded_as_a_parent_with_its_trials(swept: tuple[Workplace, str]) -> None:
    place, _ = swept
    tracker = place.tracker()
    parent, children = tracker.sweep_run("tiny"), place.children("tiny")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags.items() >= {"rbnn.kind": "sweep", "rbnn.sweep": "tiny", "rbnn.recipe": "look"}.items()
    assert place.artifacts(parent.info.run_id) >= {"sweep.yaml", "recipe.yaml", "environment.yaml"}
    assert [run.data.tags["rbnn.trial"] for run in children] == ["0", "1", "2", "3"]
    for run in children:
        tags = {"rbnn.kind": "trial", "rbnn.sweep": "tiny", "rbnn.recipe": "look", "mlflow.parentRunId": parent.info.run_id}
        assert run.data.tags.items() >= tags.items()
        assert run.data.tags["rbnn.data_fingerprint"] == parent.data.tags["rbnn.data_fingerprint"]
    assert float(children[0].data.params["lr"]) == BASE["lr"]
    recorded = tracker.recipe_of(children[0].info.run_id)
    expected = Recipe(**{**BASE, "threads": recorded.threads, "compile": "off"})
    assert recorded.to_dict(only_affecting=True) == expected.to_dict(only_affecting=True)


def test_its_winner_and_its_default_are_on_the_parent(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    parent = place.tracker().sweep_run("tiny")
    complete = [run for run in place.children("tiny") if run.info.status == "FINISHED"]
    best = max(complete, key=lambda run: run.data.metrics["val/top1"])
    assert parent.data.tags["rbnn.best_run"] == best.info.run_id
    assert parent.data.metrics["val/top1"] == best.data.metrics["val/top1"]
    assert parent.data.metrics["sweep/default_top1"] == place.children("tiny")[0].data.metrics["val/top1"]
    assert f"rbnn replay {best.info.run_id[:8]}" in output and "documented default" in output


def test_every_trial_ended_truthfully_in_both_stores(swept: tuple[Workplace, str]) -> None:
    place, _ = swept
    runs, trials = place.children("tiny"), study(place.folder, "tiny").trials
    states = {"FINISHED": "COMPLETE", "KILLED": "PRUNED", "FAILED": "FAIL"}
    assert [states[run.info.status] for run in runs] == [trial.state.name for trial in trials]
    ends = {rate: run.info.status for rate, run in by_rate(place).items()}
    assert (ends[0.02], ends[1e-9], ends[1e30]) == ("FINISHED", "KILLED", "FAILED")
    for run, trial in zip(runs, trials, strict=True):
        assert (run.data.tags.get("rbnn.pruned") == "true") is (run.info.status == "KILLED")
        scores = {step + 1: value for step, value in place.history(run.info.run_id).get("val/top1", [])} if trial.value else {}
        assert trial.intermediate_values == scores


def test_a_stopped_trial_was_stopped_at_its_first_rung(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    run = by_rate(place)[1e-9]
    assert [step for step, _ in place.history(run.info.run_id)["val/top1"]] == [0]
    assert f"trial {run.data.tags['rbnn.trial']} pruned after 1 epochs" in output


def test_a_failed_trial_says_why_and_the_sweep_goes_on(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    run = by_rate(place)[1e30]
    assert re.search(r"loss is not finite at epoch 0, step \d+ \(lr 1e\+30", run.data.tags["rbnn.cause"])
    assert f"trial {run.data.tags['rbnn.trial']} failed after 0 epochs, val/top1 - %: " in output
    assert len(by_rate(place)) == 4


def test_trials_keep_their_curves_recipes_and_checkpoints(swept: tuple[Workplace, str], tmp_path: Path) -> None:
    place, _ = swept
    tracker = place.tracker()
    for run in place.children("tiny"):
        if run.info.status == "FAILED":
            continue
        history, files = place.history(run.info.run_id), place.artifacts(run.info.run_id)
        num_epochs = 2 if run.info.status == "FINISHED" else 1
        assert {tuple(step for step, _ in points) for points in history.values()} == {tuple(range(num_epochs))}
        assert {"train/loss", "train/top1", "train/top5", "val/loss", "val/top1", "val/top5", "lr", "t", "k"} <= set(history)
        assert files >= {"recipe.yaml", "environment.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
        path = tracker.client.download_artifacts(run.info.run_id, "checkpoints/last.ckpt", str(tmp_path))
        state = checkpoint.load(path)
        assert Recipe(**state.recipe) == tracker.recipe_of(run.info.run_id)
        if num_epochs == 2:
            assert state.epoch == 2 and state.metrics["val/top1"] == history["val/top1"][-1][1]


def test_the_winner_replayed_gives_the_same_bits(swept: tuple[Workplace, str]) -> None:
    place, _ = swept
    parent = place.tracker().sweep_run("tiny")
    winner = parent.data.tags["rbnn.best_run"]
    replayed = run_id_in(place.run("replay", winner[:10]))
    tags = place.tracker().find_run(replayed).data.tags
    assert tags.items() >= {"rbnn.kind": "replay", "rbnn.replays": winner}.items()
    assert place.history(replayed) == place.history(winner)


def test_a_sweep_of_two_workers_stops_one_trial_and_starts_the_next(place: Workplace) -> None:
    """Nested trials whose workers kept their resources when stopped would leave the next one waiting for ever."""
    base = {**BASE, "threads": 1}
    file = place.sweep_file(
        base=base,
        space={"lr": {"choice": [0.02, 1e-9, 2e-9]}},
        sampler="grid",
        scheduler={"name": "asha", "grace_period": 1},
        workers_per_trial=2,
    )
    place.run("sweep", file, "--name", "nested", "--concurrent", "1")
    runs = place.children("nested")
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "KILLED"]
    assert [trial.state.name for trial in study(place.folder, "nested").trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    histories = [place.history(run.info.run_id) for run in runs]
    assert [len(history["val/top1"]) for history in histories] == [2, 1, 1]
    options = [f"--{name}={value}" for name, value in base.items()]
    alone = run_id_in(place.run("train", *options, "--train_workers", "2"))
    assert place.history(alone) == histories[0]


def test_ctrl_c_ends_a_sweep_truthfully(place: Workplace) -> None:
    file = place.sweep_file(base={**BASE, "epochs": 1}, space={"lr": {"log": [0.01, 0.1]}}, scheduler="none", trials=4)
    process = place.start("sweep", file, "--name", "stopped", "--concurrent", "1")
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "trial 1 starts" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    output = "".join(lines) + process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    runs = place.children("stopped")
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    assert "rbnn.pruned" not in runs[1].data.tags
    assert place.tracker().sweep_run("stopped").info.status == "KILLED"
    assert "checkpoints/last.ckpt" in place.artifacts(runs[0].info.run_id)
    assert study(place.folder, "stopped").trials[0].state.name == "COMPLETE"
    assert [trial.state.name for trial in study(place.folder, "stopped").trials] == ["COMPLETE", "WAITING"]
    tracker = place.tracker()
    assert not tracker.client.search_runs([tracker.experiment_id], "attributes.status = 'RUNNING'")
