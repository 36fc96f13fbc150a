"""A sweep of trials that compute nothing: python -m benchmarks.empty_trials FOLDER NUM_TRIALS, two
at once.

Prints JSON: seconds a trial between the first start and the last end, and the process's memory (MB)
when 16 trials and when all had ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

CONTENT = {
    "name": "empty",
    "base": {
        "dataset": "digits",
        "epochs": 1,
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


def train_nothing(self: Any, journal: Any, tell: Any) -> None:
    """What stands for the training of a trial: one epoch's report, no network and no checkpoint."""
    journal.append({"epoch": 0, "val/top1": 50 + self.recipe.lr})
    tell(journal.rows[-1])


def empty_trial(config: dict[str, Any], **given: Any) -> None:
    """Ray Tune's trainable: a trial with `train_nothing` for its training."""
    from tune.sweep import trial

    trial.TrialRun.train = train_nothing  # type: ignore[method-assign]
    trial.run_trial(config, **given)


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(folder: Path, num_trials: int) -> None:
    """Run the sweep and print the figures."""
    from tune.sweep import callback as recording
    from tune.sweep import session as conduct
    from tune.sweep.config import load_sweep

    ends: list[tuple[float, float]] = []
    starts: list[float] = []

    class Measured(recording.RecordTrials):
        def on_trial_start(self, *given: Any, **info: Any) -> None:
            starts.append(time.monotonic())
            super().on_trial_start(*given, **info)

        def on_trial_complete(self, *given: Any, **info: Any) -> None:
            super().on_trial_complete(*given, **info)
            ends.append((time.monotonic(), memory_mb()))

    conduct.RecordTrials = Measured  # type: ignore[misc]
    file = folder / "empty.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, "trials": num_trials}))
    status = conduct.conduct(
        load_sweep(file), name="empty", results_dir=str(folder), trainable=empty_trial
    )
    if status != 0 or len(ends) != num_trials:
        raise SystemExit(f"{len(ends)} of {num_trials} trials ended, exit status {status}")
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
    main(Path(sys.argv[1]), int(sys.argv[2]))
