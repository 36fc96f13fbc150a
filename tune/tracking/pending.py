"""What an MLflow store did not take while it was away: finding it, and uploading it later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rbnn.errors import RequestError, one_line
from tune.run.environment import without_secrets
from tune.sweep.folder import Process
from tune.tracking.address import shown, tracking_uri
from tune.tracking.mirror import Tracker
from tune.tracking.store_writes import Applier
from tune.tracking.write_buffer import PENDING, header_of, is_outage, read_pending


@dataclass(frozen=True)
class Upload:
    """One uploaded file: how many writes the store took, and what it refused, a line each."""

    file: Path
    num_taken: int
    refused: list[str]


def pending_files(folder: str | Path = "./result") -> list[Path]:
    """The files of writes that wait, in a results folder and all below it, but not those that a
    process here still fills.
    """
    return [file for file in sorted(Path(folder).rglob(PENDING)) if not _in_use(file)]


def _in_use(file: Path) -> bool:
    process = Process.of(str(header_of(file).get("process", "")))
    return process is not None and process.here and process.alive


def store_of(file: Path) -> str:
    """The store that the writes in `file` were meant for, whatever MLFLOW_TRACKING_URI says now: no
    other holds their runs.
    """
    here, meant = tracking_uri(), str(header_of(file).get("store", ""))
    if not meant or shown(here) == meant:
        return here
    if "***" in meant:
        raise RequestError(
            f"file '{file}' is meant for the MLflow store {meant}; set MLFLOW_TRACKING_URI to it, "
            "with its password"
        )
    return meant


def upload_pending(file: Path, *, uri: str = "") -> Upload:
    """Carry out the writes in `file` on the store that they were meant for (or on the one at
    `uri`), then delete it.

    May be repeated after an interruption. RequestError, one line, where the store does not answer
    or the file is not ours; the file then stays.
    """
    writes = read_pending(file)
    tracker = Tracker.open(header_of(file).get("experiment", "rbnn"), uri=uri or store_of(file))
    applier = Applier(tracker.client, tracker.experiment_id)
    refused = []
    for write in writes:
        try:
            applier.apply(write)
        except Exception as error:
            reason = without_secrets(one_line(error))[:300]
            if is_outage(error):
                raise RequestError(
                    f"the MLflow store stopped answering: {reason}; '{file}' is kept, try again"
                ) from None
            refused.append(f"{write['op']} of run {write.get('run', '')}: {reason}")
    file.unlink()
    return Upload(file, len(writes) - len(refused), refused)
