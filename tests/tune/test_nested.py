"""Sweeps that end in their own ways, each a command in its own process: several workers a trial,
and Ctrl-C.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.tune.workplace import BASE, TIMEOUT_S, Workplace, run_id_in, study

pytestmark = [
    pytest.mark.slow,
    # MLflow's own code uses what newer versions of its dependencies deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_a_sweep_of_two_workers_stops_one_trial_and_starts_the_next(place: Workplace) -> None:
    """Nested trials whose workers kept their resources when stopped would leave the next one
    waiting for ever.
    """
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


def test_ctrl_c_ends_a_sweep_truthfully(place: Workplace) -> None:
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
