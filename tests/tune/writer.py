"""python writer.py NAME FOLDER: writes what a sweep of two trials writes into the store at
MLFLOW_TRACKING_URI: scores, a file in FOLDER for each trial.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tune.tracking.mirror import Tracker

NUM_TRIALS, NUM_EPOCHS, NUM_METRICS = 2, 10, 12


def main(name: str, folder: str) -> None:
    checkpoint = Path(folder) / f"{name}.ckpt"
    checkpoint.write_text(name)
    tracker = Tracker.open()
    parent = tracker.start_run("sweep", name, recipe=None)
    for number in range(NUM_TRIALS):
        tags = {"rbnn.sweep": name, "rbnn.trial": str(number)}
        title = f"{name}-{number}"
        run_id = tracker.start_run("trial", title, recipe=None, parent=parent, tags=tags)
        for epoch in range(NUM_EPOCHS):
            metrics = {f"m/{metric}": epoch + metric / 100 for metric in range(NUM_METRICS)}
            tracker.log_epoch(run_id, metrics, epoch)
        tracker.client.log_artifact(run_id, str(checkpoint), "checkpoints")
        tracker.finish(run_id, "FINISHED")
    tracker.finish(parent, "FINISHED")


if __name__ == "__main__":
    main(*sys.argv[1:])
