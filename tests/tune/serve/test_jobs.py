"""Sweeps that are handed over: what travels, which cluster is asked, what is said of a job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from rbnn.errors import RequestError
from tune.cli.__main__ import parser
from tune.cli.cluster import status_line, status_lines
from tune.cluster.ray import jobs_address
from tune.serve.jobs import Jobs, entrypoint, portable, travelling_environment
from tune.sweep.config import load_sweep

STATUS = {"job": "one", "started": "now", "ended": None, "minutes": 1.0, "message": ""}


def test_a_sweep_file_travels_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"dataset": "digits", "lr": 0.07}))
    (tmp_path / "sweep.yaml").write_text("{recipe: mine.yaml, space: {lr: {log: [0.01, 1]}}}")
    file = load_sweep(tmp_path / "sweep.yaml")
    (tmp_path / "mine.yaml").unlink()
    (tmp_path / "travelled.yaml").write_text(yaml.safe_dump(portable(file)))
    assert load_sweep(tmp_path / "travelled.yaml").baseline == file.baseline


def test_the_command_of_a_job_is_one_that_the_command_line_takes(tmp_path: Path) -> None:
    script = entrypoint("a sweep", ["--results_dir", "/x y"])
    script = script.replace("exec python -m tune.cli", "exec printf '%s\\n'")
    environment = {**os.environ, "RBNN_HOME": str(tmp_path / "home")}
    said = subprocess.check_output(script, shell=True, cwd=tmp_path, env=environment, text=True)
    args = parser().parse_args(said.splitlines())
    assert (args.name, args.results_dir, args.file) == ("a sweep", "/x y", f"{tmp_path}/sweep.yaml")
    assert (tmp_path / "home").is_dir()


def test_what_travels_of_the_environment_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert set(travelling_environment()) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert travelling_environment()["MLFLOW_TRACKING_URI"] == "http://team:5000"
    assert "hidden" not in str(travelling_environment())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hidden@team:5000")
    with pytest.raises(RequestError, match="holds a password") as refusal:
        travelling_environment()
    assert "hidden" not in str(refusal.value)


def test_only_addresses_that_take_jobs_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="address is missing; give --address http://HEAD:8265"):
        Jobs.at()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(RequestError, match="address 'head:6379' does not take jobs"):
        Jobs.at()
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert jobs_address() == "http://head:8265" and jobs_address("https://other") == "https://other"
    with pytest.raises(RequestError, match=r"//127\.0\.0\.1:1 cannot be used: Connection refused"):
        Jobs.at("http://127.0.0.1:1")


def test_a_cluster_that_has_just_begun_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.serve.jobs.time.sleep", lambda seconds: None)
    jobs = Jobs("http://head:8265", Mock())
    young, known = "500: No available agent to submit job", "Job with submission_id one already"
    jobs.client.submit_job.side_effect = [RuntimeError(young), "one", RuntimeError(known)]
    assert jobs._submit(submission_id="one") == "one"
    with pytest.raises(RequestError, match="'one' was handed to http://head:8265 before; choose"):
        jobs._submit(submission_id="one")


@pytest.mark.parametrize(
    ("state", "last"),
    [
        *((broken, "  go on with it on the head, in ") for broken in ("FAILED", "STOPPED")),
        *((other, "  | line") for other in ("SUCCEEDED", "RUNNING")),
    ],
)
def test_the_status_of_a_job_that_was_broken_off_says_how_its_sweep_goes_on(
    state: str, last: str
) -> None:
    status = {**STATUS, "state": state, "output": ["line"]}
    lines = status_lines(status, "http://head:8265")
    assert lines[-1].startswith(last) and lines[0] == status_line(status, "http://head:8265")
