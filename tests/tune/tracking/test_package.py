"""Packages and the store: a checkpoint comes from a run or a model, and a logged package answers a
real request.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch

import rbnn.packed
from rbnn import checkpoint
from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tests.tune.made_runs import networked_run, recorded_run
from tune.cli.__main__ import main, parser
from tune.cli.runs import package_recorded
from tune.serve.mlflow import free_port
from tune.tracking.mirror import Mirror
from tune.tracking.models import models_of
from tune.tracking.package import checkpoint_of_model, checkpoint_of_run
from tune.tracking.reader import RunReader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:mlflow")

RECIPE = Recipe(dataset="digits", epochs=1, threads=1)
SERVING = re.compile(r"Uvicorn running on (http://[\d.]+:\d+)")


@dataclass
class Recorded:
    """A run in a store, with a checkpoint."""

    reader: RunReader
    run_id: str
    file: Path

    def model_id(self, name: str) -> str:
        run = self.reader.client.get_run(self.run_id)
        return str(models_of(self.reader.client, run)[name].model_id)


@pytest.fixture
def recorded(
    new_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Recorded:
    """One whose network was not trained."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    monkeypatch.chdir(tmp_path)
    mirror = Mirror.open()
    return Recorded(mirror.reader, *networked_run(mirror, tmp_path, RECIPE))


def test_a_runs_and_a_models_checkpoint_are_the_one_that_was_logged(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, model = recorded.reader.client, f"models:/{recorded.model_id('last')}"
    client.create_registered_model("n")
    version = client.create_model_version("n", model, model_id=recorded.model_id("last")).version
    client.set_registered_model_alias("n", "champion", version)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    of_run, run_id = checkpoint_of_run(recorded.reader, recorded.run_id[:8], tmp_path)
    assert run_id == recorded.run_id
    files = [recorded.file, of_run]
    for number, uri in enumerate([model, "models:/n/1", "models:/n@champion"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        of_model, its_run = checkpoint_of_model(client, uri, folder)
        assert its_run == recorded.run_id
        files.append(of_model)
    assert len({checkpoint.digest_of(checkpoint.load(file).state_dict) for file in files}) == 1


def test_what_is_not_there_is_one_line(recorded: Recorded, tmp_path: Path) -> None:
    for uri in ("models:/m-0123", "models:/nothing/3", "models:/"):
        with pytest.raises(RequestError, match=r"^model .* holds no checkpoint of rbnn.*$"):
            checkpoint_of_model(recorded.reader.client, uri, tmp_path)
    empty = recorded_run(Mirror.open(), tmp_path)
    with pytest.raises(RequestError, match=r"holds no checkpoints/last.ckpt"):
        checkpoint_of_run(recorded.reader, empty, tmp_path)


def test_the_best_trial_of_a_sweep_is_packaged(recorded: Recorded, tmp_path: Path) -> None:
    given = ["best", "sweep", "--package", str(tmp_path / "package")]
    args = argparse.Namespace(**vars(parser().parse_args(given)) | {"images": 0})
    args.no_latency = True
    status = package_recorded(recorded.run_id, recorded.reader, args)
    assert status == 0 and rbnn.packed.load(tmp_path / "package")
    assert recorded.model_id("package").startswith("m-")


def test_a_report_does_not_mix_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "sweep", "--package", "folder", "--json"]) == 2
    assert "--json goes without --package" in capsys.readouterr().err


@pytest.mark.slow
def test_a_packaged_run_is_logged_and_mlflow_serves_it(recorded: Recorded, tmp_path: Path) -> None:
    out = tmp_path / "package"
    given = ["--out", str(out), "--images", "20", "--no-latency", "--gpus", "none"]
    assert main(["package", recorded.run_id[:8], *given]) == 0
    uri = f"models:/{recorded.model_id('package')}"
    port = free_port("127.0.0.1", 5900)
    command = f"-m mlflow models serve -m {uri} --env-manager local --port {port}".split()
    own_programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": own_programs},
        start_new_session=True,
    )
    try:
        assert server.stderr is not None
        said = (SERVING.search(line) for line in server.stderr)
        address = next(found[1] for found in said if found)
        images = torch.randn(2, 3, 32, 32)
        given = {"inputs": images.tolist()}
        answer = requests.post(f"{address}/invocations", json=given, timeout=60).json()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate(timeout=60)
    scores = torch.tensor(answer["predictions"])
    torch.testing.assert_close(scores, rbnn.packed.load(out)(images), rtol=0, atol=1e-4)
