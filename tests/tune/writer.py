"""python writer.py NAME FOLDER: writes what a sweep of two trials writes into the store at
MLFLOW_TRACKING_URI: scores, a file in FOLDER for each trial.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tune.run.folder import RunFolder, RunInfo
from tune.run.journal import Journal
from tune.tracking.mirror import Mirror

NUM_TRIALS, NUM_EPOCHS, NUM_METRICS = 2, 10, 12


def main(name: str, folder: str) -> None:
    mirror, place = Mirror.open(), Path(folder) / name
    info = RunInfo(kind="sweep", name=name, tags={"rbnn.sweep": name})
    sweep = RunFolder.begin(place, info, None)
    mirror.sync(place)
    for number in range(NUM_TRIALS):
        tags = {"rbnn.sweep": name, "rbnn.trial": str(number)}
        info = RunInfo(kind="trial", name=f"{name}-{number}", parent=sweep.info.id, tags=tags)
        trial = RunFolder.begin(place / "trials" / f"{number:04d}", info, None)
        journal = Journal(trial.directory)
        for epoch in range(NUM_EPOCHS):
            metrics = {f"m/{metric}": epoch + metric / 100 for metric in range(NUM_METRICS)}
            journal.append({"epoch": epoch, **metrics})
            mirror.sync(trial.directory)
        (trial.directory / "verdict.json").write_text(name)
        trial.end("complete")
        mirror.sync(trial.directory)
    sweep.end("complete")
    mirror.sync(place)


def sync_often(directory: Path, store: str, times: int, begun: Any) -> None:
    """What processes of test_mirror do."""
    begun.set()
    for _ in range(times):
        Mirror.open(store).sync(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
