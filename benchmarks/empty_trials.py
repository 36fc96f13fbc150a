"""A sweep of trials that compute nothing: python -m benchmarks.empty_trials FOLDER NUM_TRIALS
NUM_EPOCHS, two at once.

Prints JSON: seconds a trial between the first start and the last end, and the process's memory (MB)
when 16 trials and when all had ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

CONTENT: dict[str, Any] = {
    "name": "empty",
    "base": {
        "dataset": "digits",
        "lr": 0.02,
        "Tmin": 0.3,
        "Tmax": 3.0,
        "gpus": "none",
    },
    "space": {"lr": {"log": [0.001, 1.0]}},
    "concurrent": 2,
    "scheduler": "none",
    "sampler": "random",
    "confirm_seeds": 0,
}


def train_nothing(trial: Any, journal: Any, tell: Any) -> None:
    """What stands for the training of a trial: its epochs' reports, no network, no checkpoint."""
    for epoch in range(trial.recipe.epochs):
        journal.append({"epoch": epoch, "val/top1": 50 + trial.recipe.lr})
        tell(journal.rows[-1])


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(folder: Path, num_trials: int, num_epochs: int) -> None:
    """Run the sweep and print the figures."""
    from tune.cli.listeners import watched
    from tune.run.listener import Listener, Listeners
    from tune.sweep.config import load_sweep
    from tune.sweep.session import run_sweep
    from tune.sweep.trial import run_trial

    ends: list[tuple[float, float]] = []
    starts: list[float] = []

    class Clock(Listener):
        def run_began(self, run: Any) -> None:
            if run.info.kind == "trial":
                starts.append(time.monotonic())

        def run_ended(self, run: Any) -> None:
            if run.info.kind == "trial":
                ends.append((time.monotonic(), memory_mb()))

    file = folder / "empty.yaml"
    base = {**CONTENT["base"], "epochs": num_epochs}
    file.write_text(yaml.safe_dump({**CONTENT, "base": base, "trials": num_trials}))
    with watched("") as (listener, mirror):
        run_sweep(
            load_sweep(file),
            store=mirror.reader.uri,
            name="empty",
            results_dir=str(folder),
            listener=Listeners(listener, Clock()),
            trainable=partial(run_trial, train=train_nothing),
        )
    if len(ends) != num_trials:
        raise SystemExit(f"{len(ends)} of {num_trials} trials ended")
    seconds = (ends[-1][0] - starts[0]) / num_trials
    print(
        json.dumps(
            {
                "trial_s": seconds,
                "mb_at_16": ends[min(15, num_trials - 1)][1],
                "mb_at_end": ends[-1][1],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
