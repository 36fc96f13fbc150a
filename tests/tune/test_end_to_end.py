"""Whole commands in their own processes, on real data, in their own stores: what a user runs, and
what is then recorded.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.entities import Run

from rbnn import checkpoint
from rbnn.recipe import Recipe
from tests.tune.workplace import BASE, TIMEOUT_S, Workplace, run_id_in, study

pytestmark = pytest.mark.slow


@dataclass
class Swept(Workplace):
    """Where a sweep of four trials ran, and what it said: one learns, one is stopped, one fails,
    one goes as it goes.
    """

    output: str = ""

    @property
    def parent(self) -> Run:
        return self.reader().sweep_run("tiny")

    def trial(self, rate: float) -> Run:
        (found,) = [run for run in self.children("tiny") if float(run.data.params["lr"]) == rate]
        return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    place = Swept(tmp_path_factory.mktemp("place"))
    file = place.sweep_file(
        space={"lr": {"choice": [0.02, 0.03, 1e-9, 1e30]}},
        sampler="grid",
        scheduler={"name": "asha", "grace_period": 1, "reduction_factor": 3},
        max_failures=0,
    )
    place.output = place.run("sweep", file, "--name", "tiny")
    return place


def test_a_sweep_is_recorded_as_a_parent_with_its_trials(swept: Swept) -> None:
    parent, children = swept.parent, swept.children("tiny")
    assert parent.info.status == "FINISHED"
    names = {"rbnn.sweep": "tiny", "rbnn.recipe": "look"}
    assert parent.data.tags.items() >= {**names, "rbnn.kind": "sweep"}.items()
    assert swept.artifacts(parent.info.run_id) >= {"sweep.yaml", "recipe.yaml", "environment.yaml"}
    assert [run.data.tags["rbnn.trial"] for run in children] == ["0", "1", "2", "3"]
    names |= {"rbnn.kind": "trial", "mlflow.parentRunId": parent.info.run_id}
    names["rbnn.data_fingerprint"] = parent.data.tags["rbnn.data_fingerprint"]
    for run in children:
        assert run.data.tags.items() >= names.items()
    assert float(children[0].data.params["lr"]) == BASE["lr"]
    recorded = swept.reader().recipe_of(children[0].info.run_id)
    expected = Recipe(**{**BASE, "threads": recorded.threads, "compile": "off"})
    assert recorded.to_dict("result", "bits") == expected.to_dict("result", "bits")


def test_its_winner_and_its_default_are_on_the_parent(swept: Swept) -> None:
    parent, children = swept.parent, swept.children("tiny")
    complete = [run for run in children if run.info.status == "FINISHED"]
    best = max(complete, key=lambda run: run.data.metrics["val/top1"])
    assert parent.data.tags["rbnn.best_run"] == best.info.run_id
    found = [parent.data.metrics[name] for name in ("val/top1", "sweep/default_top1")]
    assert found == [run.data.metrics["val/top1"] for run in (best, children[0])]
    assert f"rbnn replay {best.info.run_id[:8]}" in swept.output
    assert "documented default" in swept.output


def test_every_trial_ended_truthfully_in_both_stores(swept: Swept) -> None:
    runs, trials = swept.children("tiny"), study(swept.folder, "tiny").trials
    states = {"FINISHED": "COMPLETE", "KILLED": "PRUNED", "FAILED": "FAIL"}
    assert [states[run.info.status] for run in runs] == [trial.state.name for trial in trials]
    ends = [swept.trial(rate).info.status for rate in (0.02, 1e-9, 1e30)]
    assert ends == ["FINISHED", "KILLED", "FAILED"]
    for run, trial in zip(runs, trials, strict=True):
        assert (run.data.tags.get("rbnn.pruned") == "true") is (run.info.status == "KILLED")
        points = swept.history(run.info.run_id).get("val/top1", []) if trial.value else []
        assert trial.intermediate_values == {step + 1: value for step, value in points}


def test_a_trial_is_stopped_at_its_first_rung_and_a_failed_one_says_why(swept: Swept) -> None:
    stopped, failed = swept.trial(1e-9), swept.trial(1e30)
    assert [step for step, _ in swept.history(stopped.info.run_id)["val/top1"]] == [0]
    assert f"trial {stopped.data.tags['rbnn.trial']} pruned after 1 epochs" in swept.output
    cause = r"loss is not finite at epoch 0, step \d+ \(lr 1e\+30"
    assert re.search(cause, failed.data.tags["rbnn.cause"])
    said = f"trial {failed.data.tags['rbnn.trial']} failed after 0 epochs, val/top1 - %: "
    assert said in swept.output


def test_trials_keep_their_curves_recipes_and_checkpoints(swept: Swept, tmp_path: Path) -> None:
    reader = swept.reader()
    metrics = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "top1", "top5")}
    files = {"recipe.yaml", "environment.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    for run in swept.children("tiny"):
        run_id, status = run.info.run_id, run.info.status
        if status == "FAILED":
            continue
        history, num_epochs = swept.history(run_id), 2 if status == "FINISHED" else 1
        steps = {tuple(step for step, _ in points) for points in history.values()}
        assert steps == {tuple(range(num_epochs))}
        assert set(history) >= metrics | {"lr", "t", "k"} and swept.artifacts(run_id) >= files
        path = reader.client.download_artifacts(run_id, "checkpoints/last.ckpt", str(tmp_path))
        state = checkpoint.load(path)
        assert Recipe(**state.recipe) == reader.recipe_of(run_id)
        if num_epochs == 2:
            assert state.epoch == 2 and state.metrics["val/top1"] == history["val/top1"][-1][1]


def test_the_winner_replayed_gives_the_same_bits(swept: Swept) -> None:
    winner = swept.parent.data.tags["rbnn.best_run"]
    replayed = run_id_in(swept.run("replay", winner[:10]))
    tags = swept.reader().find_run(replayed).data.tags
    assert tags.items() >= {"rbnn.kind": "replay", "rbnn.replays": winner}.items()
    assert swept.history(replayed) == swept.history(winner)


def test_a_sweep_of_two_workers_stops_one_trial_and_starts_the_next(tmp_path: Path) -> None:
    """Nested trials whose workers kept their resources when stopped would leave the next one
    waiting for ever.
    """
    place = Workplace(tmp_path)
    base, space = {**BASE, "threads": 1}, {"lr": {"choice": [0.02, 1e-9, 2e-9]}}
    keys = {"base": base, "space": space, "sampler": "grid", "workers_per_trial": 2}
    file = place.sweep_file(scheduler={"name": "asha", "grace_period": 1}, **keys)
    place.run("sweep", file, "--name", "nested", "--concurrent", "1")
    runs = place.children("nested")
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "KILLED"]
    states = [trial.state.name for trial in study(place.folder, "nested").trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED"]
    histories = [place.history(run.info.run_id) for run in runs]
    assert [len(history["val/top1"]) for history in histories] == [2, 1, 1]
    options = [f"--{name}={value}" for name, value in base.items()]
    alone = run_id_in(place.run("train", *options, "--train_workers", "2"))
    assert place.history(alone) == histories[0]


def test_ctrl_c_ends_a_sweep_truthfully(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    file = place.sweep_file(
        base={**BASE, "epochs": 1}, space={"lr": {"log": [0.01, 0.1]}}, scheduler="none", trials=4
    )
    process = place.start("sweep", file, "--name", "stopped", "--concurrent", "1")
    assert process.stdout
    output = ""
    while "trial 1 starts" not in output:
        output += process.stdout.readline()
        assert process.poll() is None, output
    os.killpg(process.pid, signal.SIGINT)
    output += process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    runs = place.children("stopped")
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    assert "rbnn.pruned" not in runs[1].data.tags
    assert "checkpoints/last.ckpt" in place.artifacts(runs[0].info.run_id)
    states = [trial.state.name for trial in study(place.folder, "stopped").trials]
    assert states == ["COMPLETE", "WAITING"]
    reader = place.reader()
    assert reader.sweep_run("stopped").info.status == "KILLED"
    assert not reader.search("attributes.status = 'RUNNING'")
