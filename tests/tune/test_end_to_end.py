"""Whole commands in their own processes, on real data, in their own stores: what a user runs, and
what is then recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run

from rbnn import checkpoint
from rbnn.recipe import Recipe
from tests.tune.workplace import BASE, Workplace, run_id_in, study

pytestmark = [
    pytest.mark.slow,
    # MLflow's own code uses what newer versions of its dependencies deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def swept(place: Workplace) -> Iterator[tuple[Workplace, str]]:
    """A finished sweep of four trials, and its output: one learns, one is stopped, one fails, one
    goes as it goes.
    """
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
    reader = place.reader()
    parent, children = reader.sweep_run("tiny"), place.children("tiny")
    assert parent.info.status == "FINISHED"
    assert (
        parent.data.tags.items()
        >= {"rbnn.kind": "sweep", "rbnn.sweep": "tiny", "rbnn.recipe": "look"}.items()
    )
    assert place.artifacts(parent.info.run_id) >= {"sweep.yaml", "recipe.yaml", "environment.yaml"}
    assert [run.data.tags["rbnn.trial"] for run in children] == ["0", "1", "2", "3"]
    for run in children:
        tags = {
            "rbnn.kind": "trial",
            "rbnn.sweep": "tiny",
            "rbnn.recipe": "look",
            "mlflow.parentRunId": parent.info.run_id,
        }
        assert run.data.tags.items() >= tags.items()
        assert run.data.tags["rbnn.data_fingerprint"] == parent.data.tags["rbnn.data_fingerprint"]
    assert float(children[0].data.params["lr"]) == BASE["lr"]
    recorded = reader.recipe_of(children[0].info.run_id)
    expected = Recipe(**{**BASE, "threads": recorded.threads, "compile": "off"})
    assert recorded.to_dict("result", "bits") == expected.to_dict("result", "bits")


def test_its_winner_and_its_default_are_on_the_parent(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    parent = place.reader().sweep_run("tiny")
    complete = [run for run in place.children("tiny") if run.info.status == "FINISHED"]
    best = max(complete, key=lambda run: run.data.metrics["val/top1"])
    assert parent.data.tags["rbnn.best_run"] == best.info.run_id
    assert parent.data.metrics["val/top1"] == best.data.metrics["val/top1"]
    assert (
        parent.data.metrics["sweep/default_top1"]
        == place.children("tiny")[0].data.metrics["val/top1"]
    )
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
        scores = (
            {step + 1: value for step, value in place.history(run.info.run_id).get("val/top1", [])}
            if trial.value
            else {}
        )
        assert trial.intermediate_values == scores


def test_a_stopped_trial_was_stopped_at_its_first_rung(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    run = by_rate(place)[1e-9]
    assert [step for step, _ in place.history(run.info.run_id)["val/top1"]] == [0]
    assert f"trial {run.data.tags['rbnn.trial']} pruned after 1 epochs" in output


def test_a_failed_trial_says_why_and_the_sweep_goes_on(swept: tuple[Workplace, str]) -> None:
    place, output = swept
    run = by_rate(place)[1e30]
    assert re.search(
        r"loss is not finite at epoch 0, step \d+ \(lr 1e\+30", run.data.tags["rbnn.cause"]
    )
    assert f"trial {run.data.tags['rbnn.trial']} failed after 0 epochs, val/top1 - %: " in output
    assert len(by_rate(place)) == 4


def test_trials_keep_their_curves_recipes_and_checkpoints(
    swept: tuple[Workplace, str], tmp_path: Path
) -> None:
    place, _ = swept
    reader = place.reader()
    for run in place.children("tiny"):
        if run.info.status == "FAILED":
            continue
        history, files = place.history(run.info.run_id), place.artifacts(run.info.run_id)
        num_epochs = 2 if run.info.status == "FINISHED" else 1
        assert {tuple(step for step, _ in points) for points in history.values()} == {
            tuple(range(num_epochs))
        }
        assert {
            "train/loss",
            "train/top1",
            "train/top5",
            "val/loss",
            "val/top1",
            "val/top5",
            "lr",
            "t",
            "k",
        } <= set(history)
        assert files >= {
            "recipe.yaml",
            "environment.yaml",
            "checkpoints/last.ckpt",
            "checkpoints/best.ckpt",
        }
        path = reader.client.download_artifacts(
            run.info.run_id, "checkpoints/last.ckpt", str(tmp_path)
        )
        state = checkpoint.load(path)
        assert Recipe(**state.recipe) == reader.recipe_of(run.info.run_id)
        if num_epochs == 2:
            assert state.epoch == 2 and state.metrics["val/top1"] == history["val/top1"][-1][1]


def test_the_winner_replayed_gives_the_same_bits(swept: tuple[Workplace, str]) -> None:
    place, _ = swept
    parent = place.reader().sweep_run("tiny")
    winner = parent.data.tags["rbnn.best_run"]
    replayed = run_id_in(place.run("replay", winner[:10]))
    tags = place.reader().find_run(replayed).data.tags
    assert tags.items() >= {"rbnn.kind": "replay", "rbnn.replays": winner}.items()
    assert place.history(replayed) == place.history(winner)
