"""Sweeps handed to a running cluster: submit, status, logs, stop, from any machine that has its
address and token.

A submitted sweep is a Ray job whose id is the sweep's name. It runs in RBNN_HOME of the cluster
(else ~/rbnn there), where the relative paths of its file lie: data in data/, results in result/.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from rbnn.errors import RequestError
from rbnn.recipe import recipe_files
from tune.cluster.ray import (
    check_port,
    jobs_address,
    refused,
    staged_code,
    use_token,
    without_address_variables,
)
from tune.sweep.config import SweepConfig, check_name
from tune.uris import holds_password, is_server

SWEEP_FILE = "sweep.yaml"
DASHBOARD_PORT = 8265
STOP_WAIT_S = 120  # how long a sweep may take to record what it stopped; Ray's own default is 3
AGENT_WAIT_S = 60
ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
NUM_LOG_LINES = 12


def entrypoint(name: str, extra: list[str]) -> str:
    """The shell command of a job: in the cluster's home for sweeps, with what came along."""
    sweep = shlex.join(["sweep", "--name", name, *extra])
    return (
        'code="$PWD" && home="${RBNN_HOME:-$HOME/rbnn}" && mkdir -p "$home" && cd "$home" && '
        f'PYTHONPATH="$code:$PYTHONPATH" exec python -m tune.cli {sweep} "$code/{SWEEP_FILE}"'
    )


def portable(file: SweepConfig) -> dict[str, Any]:
    """The sweep file for another machine: a recipe file of one's own travels as its values."""
    values = file.to_dict()
    return values if values["recipe"] in recipe_files() else {**values, "recipe": ""}


def travelling_environment() -> dict[str, str]:
    """Where a job is to record, if that is a server; RequestError for one with a password."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if holds_password(uri):
        raise RequestError(
            "MLFLOW_TRACKING_URI holds a password, and a job's environment is shown to everyone "
            "on the cluster; leave it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD there"
        )
    record = {"MLFLOW_TRACKING_URI": uri} if is_server(uri) else {}
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **record}


@dataclass(frozen=True)
class Jobs:
    """The jobs of one cluster. `client`: Ray's JobSubmissionClient."""

    address: str
    client: Any

    @classmethod
    def at(cls, address: str = "") -> Jobs:
        """The jobs of the cluster at `address` or RAY_ADDRESS; RequestError where it refuses."""
        where = jobs_address(address)
        if not where:
            given = address or os.environ.get("RAY_ADDRESS", "")
            problem = f"address '{given}' does not take jobs" if given else "address is missing"
            raise RequestError(
                f"{problem}; give --address http://HEAD:{DASHBOARD_PORT}, as rbnn serve prints "
                "it, or set RAY_ADDRESS to it"
            )
        check_port(where, 443 if where.startswith("https") else 80)
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        use_token()
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with without_address_variables():
                return cls(where, JobSubmissionClient(where))
        except (RuntimeError, ConnectionError, ValueError, RayError) as error:
            raise refused(where, error) from error

    def submit(self, file: SweepConfig, name: str, extra: list[str]) -> str:
        """Hand a sweep over; returns the job's id. extra: options of `rbnn sweep` there."""
        name = check_name(name) or f"{file.name}-{datetime.now():%Y%m%d-%H%M%S}"
        with staged_code() as folder:
            text = yaml.safe_dump(portable(file), sort_keys=False)
            (folder / SWEEP_FILE).write_text(text, "utf-8")
            return self._submit(
                entrypoint=entrypoint(name, extra),
                submission_id=name,
                runtime_env={"working_dir": str(folder), "env_vars": travelling_environment()},
                metadata={"rbnn.sweep": name, "rbnn.file": file.name},
            )

    def _submit(self, **job: Any) -> str:
        """Hand a job over; a cluster that has just begun to answer is given AGENT_WAIT_S."""
        deadline = time.monotonic() + AGENT_WAIT_S
        while True:
            try:
                return str(self.client.submit_job(**job))
            except RuntimeError as error:
                if "No available agent" in str(error) and time.monotonic() < deadline:
                    time.sleep(0.5)
                    continue
                if "already" in str(error):
                    before = f"sweep '{job['submission_id']}' was handed to {self.address} before"
                    raise RequestError(f"{before}; choose another --name") from None
                raise refused(self.address, error) from error

    def details(self, job: str) -> Any:
        """Ray's own record of a job; RequestError for an id that the cluster does not know."""
        known = self.all()
        for found in known:
            if job in (found.submission_id, found.job_id):
                return found
        hint = "it has none; hand one over with rbnn sweep FILE --submit"
        if known:
            hint = "it knows " + ", ".join(found.submission_id for found in known)
        raise RequestError(f"job '{job}' is unknown to {self.address}; {hint}")

    def all(self) -> list[Any]:
        """The sweeps that were handed over, the latest last."""
        found = [job for job in self.client.list_jobs() if "rbnn.sweep" in (job.metadata or {})]
        return sorted(found, key=lambda job: job.start_time or 0)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED."""
        return str(self.details(job).status.value)

    def status(self, job: str) -> dict[str, Any]:
        """What is known of a job, as plain values; times in UTC."""
        found = self.details(job)
        lines = self.logs(job).splitlines()
        return {
            "job": found.submission_id,
            "state": found.status.value,
            "started": _time(found.start_time),
            "ended": _time(found.end_time),
            "minutes": _minutes(found.start_time, found.end_time),
            "message": found.message or "",
            "output": lines[-NUM_LOG_LINES:],
        }

    def logs(self, job: str) -> str:
        """What a job has printed so far."""
        self.details(job)
        return str(self.client.get_job_logs(job))

    def follow(self, job: str, say: Callable[[str], Any]) -> None:
        """Hand over what a job prints, from its beginning to its end."""
        self.details(job)

        async def tail() -> None:
            async for text in self.client.tail_job_logs(job):
                say(text)

        asyncio.run(tail())

    def stop(self, job: str) -> str:
        """End a job as Ctrl-C would and wait until it has ended; returns its state."""
        if self.state(job) not in ENDED:
            self.client.stop_job(job)
        deadline = time.monotonic() + STOP_WAIT_S + 10
        while (state := self.state(job)) not in ENDED and time.monotonic() < deadline:
            time.sleep(0.3)
        return state


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _minutes(start: int | None, end: int | None) -> float | None:
    return round(((end or time.time() * 1000) - start) / 60000, 2) if start else None
