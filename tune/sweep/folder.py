"""A sweep's folder, results_dir/NAME: everything needed to look at it, stop it and go on with it,
from any process.

sweep.yaml     the sweep file as resolved
sweep.json     `Record`: budget, stores, who conducts it, how it ended
optuna.db      the trials, unless storage is set
trials/NNNN/, confirm/NNNN/   metrics.jsonl, last.ckpt, best.ckpt
stop           asks the conducting process to end
sweep.lock     held by the conducting process
sweep.yaml, sweep.json and ray/ are their owner's alone where a URI in them holds a password.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from rbnn.errors import RequestError
from tune.process import Process
from tune.sweep.config import SweepFile, parse_sweep
from tune.uris import holds_password

RECORD, SWEEP_FILE, STOP_FILE, LOCK_FILE = "sweep.json", "sweep.yaml", "stop", "sweep.lock"
DEFAULT_RESULTS = "./result"
HEARTBEAT_S = 5.0
# a process on another machine that has not touched sweep.json for so long is taken for dead
SILENT_S = 60.0
State = Literal["running", "finished", "stopped", "failed", "died"]


@dataclass
class Record:
    """What sweep.json holds. `trials`: the budget so far, None without end. `state`: as its last
    process left it.

    store: MLflow's tracking URI. storage: URL of the Optuna storage, "" for optuna.db in the
    folder. parent: the sweep's run in MLflow. recipe, concurrent, data: the plan as resolved on the
    machine where it began; cpus, gpus: of one trial. used_s: of ended sessions. budget_s: time
    budget of the search over all sessions, or None. cause: why it failed or stopped. ray: the
    folder of the Ray that its last session started.
    """

    name: str
    store: str = ""
    storage: str = ""
    parent: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    concurrent: int = 1
    data: dict[str, Any] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0
    trials: int | None = None
    budget_s: float | None = None
    confirm_seeds: int = 0
    state: State = "running"
    cause: str = ""
    process: dict[str, Any] = field(default_factory=dict)
    ray: str = ""
    sessions: int = 0
    began: float = 0.0
    session_began: float = 0.0
    ended: float | None = None
    used_s: float = 0.0

    def used_with_open_session(self, seen_alive: float) -> float:
        """Seconds of all sessions; the last one, where it was never ended, counts until it was seen
        alive.
        """
        return self.used_s + (
            max(seen_alive - self.session_began, 0.0)
            if self.state == "running" and self.sessions
            else 0.0
        )


def begin_file(path: Path, *uris: str) -> None:
    """An empty file that is to hold these URIs: its owner's alone where one of them holds a
    password.
    """
    path.unlink(missing_ok=True)
    path.touch(0o600 if holds_password(*uris) else 0o666)


class SweepFolder:
    """The folder of one sweep, and its record."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def record(self) -> Record:
        """sweep.json as it is now."""
        content = json.loads((self.directory / RECORD).read_text())
        known = {spec.name for spec in dataclasses.fields(Record)}
        return Record(**{key: value for key, value in content.items() if key in known})

    def write(self, record: Record) -> None:
        """Replace sweep.json, completely or not at all, also where the machine fails."""
        partial = self.directory / f".{RECORD}.{os.getpid()}.partial"
        begin_file(partial, record.store, record.storage)
        with partial.open("w") as file:
            file.write(json.dumps(dataclasses.asdict(record), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.directory / RECORD)

    def update(self, **changes: Any) -> Record:
        """Change some of sweep.json; returns it."""
        record = dataclasses.replace(self.record, **changes)
        self.write(record)
        return record

    @property
    def file(self) -> SweepFile:
        """The resolved sweep file."""
        return parse_sweep(
            yaml.safe_load((self.directory / SWEEP_FILE).read_text()), self.directory
        )

    def storage_url(self, record: Record | None = None) -> str:
        """The URL of its Optuna storage."""
        return (record or self.record).storage or f"sqlite:///{self.directory.resolve()}/optuna.db"

    @property
    def exists(self) -> bool:
        """Whether a sweep is there."""
        return (self.directory / RECORD).is_file()

    @property
    def handle(self) -> str:
        """What a command typed here names the sweep by: its name where that is enough, else its
        folder.
        """
        found = Path(DEFAULT_RESULTS) / self.directory.name
        return (
            self.directory.name
            if found.absolute() == self.directory.absolute()
            else str(self.directory)
        )

    @property
    def stop_file(self) -> Path:
        return self.directory / STOP_FILE

    @property
    def state(self) -> State:
        """How it is now: `died` where its last process ended without saying so."""
        record = self.record
        return "died" if record.state == "running" and not self.conducted(record) else record.state

    def conducted(self, record: Record | None = None) -> bool:
        """Whether a process conducts it at this moment."""
        record = record or self.record
        if not record.process:
            return False
        process = Process(**record.process)
        if process.here:
            return process.alive and record.state == "running"
        return (
            record.state == "running"
            and time.time() - (self.directory / RECORD).stat().st_mtime < SILENT_S
        )

    def beat(self) -> None:
        """Say that the conducting process lives, for those who look from another machine."""
        with suppress(OSError):
            os.utime(self.directory / RECORD)

    @contextmanager
    def conducting(self) -> Iterator[None]:
        """Within it, this process and no other conducts the sweep; RequestError where one does
        already.
        """
        with (self.directory / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise self.busy() from None
            if self.conducted():
                raise self.busy()
            self.stop_file.unlink(missing_ok=True)
            record = self.record
            self.update(
                process=dataclasses.asdict(Process.current()),
                state="running",
                ended=None,
                cause="",
                used_s=self.used_s,
                session_began=time.time(),
                sessions=record.sessions + 1,
            )
            yield

    @property
    def used_s(self) -> float:
        """Seconds that sessions of this sweep have lasted so far."""
        record = self.record
        alive = time.time() if self.conducted(record) else (self.directory / RECORD).stat().st_mtime
        return record.used_with_open_session(alive)

    def end_session(self, state: State, cause: str = "") -> None:
        """Note how the session of this process ended."""
        self.update(state=state, cause=cause, ended=time.time(), used_s=self.used_s)

    def busy(self) -> RequestError:
        """The refusal for a sweep that another process conducts."""
        process = self.record.process
        who = f"process {process.get('pid')} on {process.get('host')}"
        handle = self.handle
        return RequestError(
            f"sweep '{self.directory.name}' is running ({who}); see rbnn status {handle}, or end "
            f"it with rbnn stop {handle}"
        )


def sweep_folders(results_dir: str = "") -> list[SweepFolder]:
    """The sweeps under a results folder, the oldest first, but not those that are another user's
    alone.
    """
    found = [
        path
        for path in Path(results_dir or DEFAULT_RESULTS).glob(f"*/{RECORD}")
        if os.access(path, os.R_OK)
    ]
    return [
        SweepFolder(path.parent)
        for path in sorted(found, key=lambda path: json.loads(path.read_text())["began"])
    ]


def find_sweep(name_or_folder: str, results_dir: str = "") -> SweepFolder:
    """The sweep of that name under a results folder, or in that folder; RequestError, one line, for
    none.
    """
    for directory in (Path(name_or_folder), Path(results_dir or DEFAULT_RESULTS) / name_or_folder):
        if (directory / RECORD).is_file():
            if not os.access(directory / RECORD, os.R_OK):
                raise RequestError(
                    f"sweep '{name_or_folder}' is another user's alone, as {directory / RECORD} "
                    "holds a password"
                )
            return SweepFolder(directory)
    known = ", ".join(folder.directory.name for folder in sweep_folders(results_dir)[-5:])
    hint = f"known: {known}" if known else "there is none; start one with rbnn sweep"
    where = results_dir or DEFAULT_RESULTS
    raise RequestError(
        f"sweep '{name_or_folder}' is not in {where} ({hint}); give its name, its folder, or "
        "--results_dir"
    )
