"""Finds and mends what an accident left: sweeps whose process died, trials and runs that contradict
each other, leftovers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from rbnn.data.loading import DataInfo
from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.cluster.ray import ray_processes
from tune.process import Process
from tune.report.outcome import STATUS, start_parent
from tune.sweep.callback import RecordConfirmation, RecordTrials
from tune.sweep.confirm import SUFFIX
from tune.sweep.folder import SweepFolder, sweep_folders
from tune.sweep.plan import Plan
from tune.sweep.repair import Finding, examine, runs_by_number
from tune.sweep.stop import Stop
from tune.sweep.study import History
from tune.sweep.table import Board
from tune.tracking.mirror import Tracker


def ailments(
    results_dir: str, open_tracker: Callable[[str], Tracker]
) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """By name, for each sweep under a results folder that no process conducts: what is wrong, or
    why that cannot be said.
    """
    found: dict[str, list[Finding]] = {}
    unread: dict[str, str] = {}
    for folder in sweep_folders(results_dir):
        if not folder.conducted():
            try:
                found[folder.record.name] = examine_sweep(folder, open_tracker(folder.record.store))
            except RequestError as error:
                unread[folder.record.name] = str(error)
    return found, unread


def dead_runs(tracker: Tracker, known_sweeps: Collection[str]) -> list[Finding]:
    """Runs that the store holds as running though their process, of this machine, is gone; those of
    known sweeps left out.
    """
    running = tracker.client.search_runs(
        [tracker.experiment_id], "attributes.status = 'RUNNING'", max_results=1000
    )
    found = []
    for run in running:
        tags, run_id = run.data.tags, run.info.run_id
        process = Process.of(tags.get("rbnn.process", ""))
        if (
            tags.get("rbnn.sweep") in known_sweeps
            or process is None
            or not process.here
            or process.alive
        ):
            continue
        text = (
            f"run {run_id[:8]} ({tags.get('rbnn.kind')} {run.info.run_name}) is RUNNING, and its "
            f"process {process.pid} is gone"
        )
        found.append(
            Finding(text, partial(tracker.finish, run_id, "KILLED", cause="its process died"))
        )
    return found


def examine_sweep(folder: SweepFolder, tracker: Tracker) -> list[Finding]:
    """What is wrong with one sweep that no process conducts."""
    record = folder.record
    findings = leftovers(folder)
    if record.parent and not tracker.lifecycle(record.parent):
        text = (
            f"its MLflow run {record.parent[:8]}, with those of its trials, is not in the store "
            "any more"
        )
        findings.append(Finding(text, partial(_record_anew, folder, tracker)))
    elif record.parent:
        for kind, recorder_type in (("trial", RecordTrials), ("confirm", RecordConfirmation)):
            history = History.existing(
                folder.storage_url(record), record.name + (SUFFIX if kind == "confirm" else "")
            )
            if history is None:
                continue
            runs = runs_by_number(tracker, record.name, record.parent, kind)
            ids = {number: run.info.run_id for number, run in runs.items()}
            board = Board(record.name, None, int(record.recipe["epochs"]), noun=recorder_type.noun)
            recorder = recorder_type(
                plan_of(folder), board, tracker, record.parent, Stop(), lambda row: None, ids
            )
            findings += examine(history, runs, recorder)
        findings += _parent(folder, tracker)
    if record.state == "running":
        text = f"its process {record.process.get('pid', '')} died without noting an end"
        findings.append(Finding(text, lambda: folder.end_session("stopped", "its process died")))
    return findings


def _record_anew(folder: SweepFolder, tracker: Tracker) -> None:
    """Give a sweep whose store was lost a run again, and its trials theirs, from its study and
    their journals.
    """
    folder.update(parent=start_parent(tracker, plan_of(folder)))
    for finding in examine_sweep(folder, tracker):
        finding.fix()


def _parent(folder: SweepFolder, tracker: Tracker) -> list[Finding]:
    record = folder.record
    status = tracker.client.get_run(record.parent).info.status
    state = "stopped" if record.state == "running" else record.state
    wanted = STATUS.get(state, "FAILED")
    if status != "RUNNING":
        return []
    return [
        Finding(
            f"its MLflow run {record.parent[:8]} is RUNNING",
            lambda: tracker.finish(record.parent, wanted),
        )
    ]


def leftovers(folder: SweepFolder) -> list[Finding]:
    """Half-written files, a request to stop that nobody waits for, and a Ray that outlived its
    sweep.
    """
    found = []
    for file in sorted(folder.directory.rglob("*.partial")):
        found.append(
            Finding(f"{file.relative_to(folder.directory)} was never finished", _remover(file))
        )
    if folder.stop_file.exists():
        found.append(Finding("a request to stop is left", _remover(folder.stop_file)))
    for pid, name in ray_processes(folder.record.ray):
        found.append(Finding(f"{name} (process {pid}) of its Ray still runs", _ender(pid)))
    return found


def _remover(file: Path) -> Callable[[], object]:
    return lambda: file.unlink(missing_ok=True)


def _ender(pid: int) -> Callable[[], object]:
    return lambda: os.kill(pid, signal.SIGKILL)


def plan_of(folder: SweepFolder) -> Plan:
    """The plan of a recorded sweep as it was, for looking after its records; nothing is checked or
    opened.
    """
    record = folder.record
    recipe = Recipe(**record.recipe)
    return Plan(
        folder.file,
        record.name,
        folder.directory,
        recipe,
        DataInfo(**record.data),
        record.concurrent,
        record.cpus,
        record.gpus,
    )
