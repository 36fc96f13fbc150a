"""What an MLflow store did not take while it was away: finding it, and uploading it later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rbnn.errors import RequestError
from tune.environment import without_secrets
from tune.folder import Process
from tune.store_writes import Applier
from tune.tracking import Tracker
from tune.write_buffer import PENDING, is_outage, read_pending


@dataclass(frozen=True)
class Upload:
    """One uploaded file: how many writes the store took, and what it refused, a line each."""

    file: Path
    num_taken: int
    refused: list[str]


def pending_files(folder: str | Path = "./result") -> list[Path]:
    """The files of writes that wait, in a results folder and all below it, but not those that a process here still fills."""
    return [file for file in sorted(Path(folder).rglob(PENDING)) if not _in_use(file)]


def _in_use(file: Path) -> bool:
    try:
        head = json.loads(file.read_text().partition("\n")[0])
    except ValueError:
        return False
    process = Process.of(str(head.get("process", "")))
    return process is not None and process.here and process.alive


def upload_pending(file: Path, *, uri: str = "") -> Upload:
    """Carry out the writes in `file` on the store (default: `tracking_uri()`), then delete it.

    May be repeated after an interruption. RequestError, one line, where the store does not answer or the file is not ours; the
    file then stays.
    """
    writes = read_pending(file)
    tracker = Tracker.open(json.loads(file.read_text().partition("\n")[0]).get("experiment", "rbnn"), uri=uri)
    applier = Applier(tracker.client, tracker.experiment_id)
    refused = []
    for write in writes:
        try:
            applier.apply(write)
        except Exception as error:
            reason = without_secrets(" ".join(str(error).split()))[:300]
            if is_outage(error):
                raise RequestError(f"the MLflow store stopped answering: {reason}; '{file}' is kept, try again") from None
            refused.append(f"{write['op']} of run {write.get('run', '')}: {reason}")
    file.unlink()
    return Upload(file, len(writes) - len(refused), refused)
