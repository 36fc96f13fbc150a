"""A sweep's folder, results_dir/NAME: all that is needed to look at it, stop it and go on with it.

sweep.yaml     the sweep file as resolved
sweep.json     `SweepRecord`: the sweep's own run, its budget, its stores, who conducts it
optuna.db      the trials' proposals and scores, unless `storage` is set
trials/NNNN/, confirm/NNNN/   the trials' own runs (tune/run/folder.py)
stop           asks the conducting process to end
sweep.lock     held by the conducting process
sweep.yaml, sweep.json and ray/ are their owner's alone where a URI in them holds a password.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbnn.errors import RequestError
from rbnn.files import read_yaml, write_atomically
from tune.process import Process
from tune.run.folder import SWEEP_RECORD, RunFolder, RunInfo, State
from tune.sweep.config import SweepConfig, parse_sweep
from tune.uris import (
    holds_password,
    shown,
    sqlite_path,
    sqlite_uri,
    with_absolute_path,
    without_secrets,
)

TRIALS, CONFIRM = "trials", "confirm"
SWEEP_FILE, STOP_FILE, LOCK_FILE = "sweep.yaml", "stop", "sweep.lock"
DEFAULT_RESULTS = "./result"
SILENT_S = 60.0  # not touched for so long, sweep.json of another machine's process tells of a death


@dataclass(frozen=True)
class SweepRecord(RunInfo):
    """What sweep.json holds: the sweep's own run, and what going on with it needs.

    store: the tracking URI of its MLflow store. storage: URL of the Optuna storage, "" for
    optuna.db in the folder. home: the folder's own place when the record was written, which tells
    a moved or copied folder. recipe, concurrent: the plan as resolved where it began; cpus, gpus:
    of one trial. trials: the budget so far, None without end. budget_s: time budget of the search
    over all sessions, or None. used_s: seconds of ended sessions. ray: the folder of the Ray that
    its last session started. file: digest of what sweep.yaml says.
    """

    store: str = ""
    storage: str = ""
    home: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    concurrent: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    trials: int | None = None
    budget_s: float | None = None
    confirm_seeds: int = 0
    ray: str = ""
    file: str = ""
    sessions: int = 0
    session_began: float = 0.0
    used_s: float = 0.0


class SweepFolder(RunFolder):
    """The folder of one sweep, and its record."""

    @property
    def path(self) -> Path:
        return self.directory / SWEEP_RECORD

    @property
    def record(self) -> SweepRecord:
        """sweep.json as it is now, its databases' files where they lie now."""
        record = SweepRecord.of(self.content())
        store, storage = self._moved(record.store, record), self._moved(record.storage, record)
        return dataclasses.replace(record, store=store, storage=storage)

    @property
    def info(self) -> SweepRecord:
        return self.record

    def _moved(self, uri: str, record: SweepRecord) -> str:
        """The URI of a database file that moved, or was copied, along with the sweep's folder."""
        path, here = sqlite_path(uri), self.directory.resolve()
        if path is None or not record.home or Path(record.home) == here:
            return uri
        beside = Path(os.path.normpath(here / os.path.relpath(path, record.home)))
        if not beside.is_file():
            return uri
        return sqlite_uri(beside) + uri[len(uri.partition("?")[0]) :]

    def store_uri(self) -> str:
        """The MLflow store that its runs go to; RequestError where that would be another folder's.

        A store that lies in the same place as seen from the folder has moved, or was copied, along
        with it. Of a folder that was moved without its store, MLFLOW_TRACKING_URI decides; a copy
        without a store of its own is refused, as its runs are the original's.
        """
        stored, record = SweepRecord.of(self.content()), self.record
        if stored.home in ("", str(self.directory.resolve())) or record.store != stored.store:
            return record.store
        if given := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            return with_absolute_path(given)
        original = Path(stored.home) / SWEEP_RECORD
        if original.is_file() and json.loads(original.read_text("utf-8")).get("id") == stored.id:
            raise RequestError(
                f"'{self.directory}' is a copy of sweep {stored.home}, whose runs the MLflow store "
                f"{shown(stored.store)} holds; set MLFLOW_TRACKING_URI to a store for the copy"
            )
        return record.store

    def write(self, info: RunInfo) -> None:
        """Replace sweep.json, completely or not at all, also where the machine fails."""
        assert isinstance(info, SweepRecord)
        record = dataclasses.replace(info, home=str(self.directory.resolve()))
        text = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
        write_atomically(self.path, text, mode=private_mode(record.store, record.storage))

    @property
    def config(self) -> SweepConfig:
        """The resolved sweep file."""
        return parse_sweep(read_yaml(self.directory / SWEEP_FILE, "sweep file"), self.directory)

    @property
    def unchanged_config(self) -> SweepConfig:
        """The sweep file to go on with; RequestError where it says else than what was tried."""
        path, known = self.directory / SWEEP_FILE, self.record.file
        if known and digest_of(path) != known:
            raise RequestError(
                f"'{path}' says something else than when its sweep began; put it back, or begin a "
                f"new sweep with it: rbnn sweep {path} --name NAME"
            )
        return self.config

    def storage_url(self, record: SweepRecord | None = None) -> str:
        """The URL of its Optuna storage."""
        own = sqlite_uri(self.directory.resolve() / "optuna.db")
        return (record or self.record).storage or own

    @property
    def handle(self) -> str:
        """What a command typed here names the sweep by: its name, else its folder."""
        found = Path(DEFAULT_RESULTS) / self.directory.name
        here = found.absolute() == self.directory.absolute()
        return self.directory.name if here else str(self.directory)

    @property
    def stop_file(self) -> Path:
        return self.directory / STOP_FILE

    @property
    def state(self) -> State:
        """How it is now: `died` where its last process ended without saying so."""
        record = self.record
        dead = record.state == "running" and not self.conducted(record)
        return "died" if dead else record.state

    def conducted(self, record: SweepRecord | None = None) -> bool:
        """Whether a process conducts it at this moment."""
        record = record or self.record
        if not record.process or record.state != "running":
            return False
        process = Process(**record.process)
        if process.here:
            return process.alive
        return time.time() - self.path.stat().st_mtime < SILENT_S

    def beat(self) -> None:
        """Say that the conducting process lives, for those who look from another machine."""
        with suppress(OSError):
            os.utime(self.path)

    @contextmanager
    def conducting(self) -> Iterator[None]:
        """Within it, this process alone conducts the sweep; RequestError where another one does."""
        with (self.directory / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise self.busy() from None
            if self.conducted():
                raise self.busy()
            self.stop_file.unlink(missing_ok=True)
            self.update(
                process=dataclasses.asdict(Process.current()),
                state="running",
                cause="",
                ended=None,
                used_s=self.used_s,
                session_began=time.time(),
                sessions=self.record.sessions + 1,
            )
            yield

    @property
    def used_s(self) -> float:
        """Seconds of all sessions; one that was never ended counts until it was seen alive."""
        record = self.record
        if record.state != "running" or not record.sessions:
            return record.used_s
        alive = time.time() if self.conducted(record) else self.path.stat().st_mtime
        return record.used_s + max(alive - record.session_began, 0.0)

    def end(self, state: State, cause: str = "") -> None:
        """Note how the session of this process ended."""
        cause, used_s = without_secrets(cause), self.used_s
        self.update(state=state, cause=cause, ended=time.time(), used_s=used_s)

    def busy(self) -> RequestError:
        """The refusal for a sweep that another process conducts."""
        process, handle = self.record.process, self.handle
        return RequestError(
            f"sweep '{self.directory.name}' is running (process {process.get('pid')} on "
            f"{process.get('host')}); see rbnn status {handle}, or end it with rbnn stop {handle}"
        )


def digest_of(sweep_file: Path) -> str:
    """A short text that changes with what a YAML file says, but not with how it says it."""
    content = read_yaml(sweep_file, "sweep file")
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trial_directory(sweep: str | Path, number: int, kind: str = TRIALS) -> Path:
    """The folder of a trial's run, fixed by the trial's number, so that a retry finds it."""
    return Path(sweep) / kind / f"{number:04d}"


def private_mode(*uris: str) -> int:
    """Permissions of a file that holds these URIs: its owner's alone where one has a password."""
    return 0o600 if holds_password(*uris) else 0o666


def sweep_folders(results_dir: str = "") -> list[SweepFolder]:
    """The sweeps under a results folder, the oldest first; another user's own are passed over."""
    paths = Path(results_dir or DEFAULT_RESULTS).glob(f"*/{SWEEP_RECORD}")
    readable = [path for path in paths if os.access(path, os.R_OK)]
    found = sorted((json.loads(path.read_text("utf-8"))["began"], path.parent) for path in readable)
    return [SweepFolder(directory) for _, directory in found]


def find_sweep(name_or_folder: str, results_dir: str = "") -> SweepFolder:
    """The sweep of that name under a results folder, or in that folder; RequestError for none."""
    where = results_dir or DEFAULT_RESULTS
    for directory in (Path(name_or_folder), Path(where) / name_or_folder):
        record = directory / SWEEP_RECORD
        if record.is_file() and os.access(record, os.R_OK):
            return SweepFolder(directory)
        if record.is_file():
            raise RequestError(
                f"sweep '{name_or_folder}' is another user's alone, as {record} holds a password"
            )
    known = ", ".join(folder.directory.name for folder in sweep_folders(results_dir)[-5:])
    hint = f"known: {known}" if known else "there is none; start one with rbnn sweep"
    raise RequestError(
        f"sweep '{name_or_folder}' is not in {where} ({hint}); give its name, its folder, or "
        "--results_dir"
    )
