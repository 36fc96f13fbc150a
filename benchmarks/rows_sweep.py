"""What a sweep costs beside the training in it: `rbnn sweep` of one-worker trials against `python
-m rbnn train`.

Both report time/epoch_s, training and validation alone. What an interval between two epochs'
records holds beyond it is the loop's digest and checkpoint, and in a sweep the report to Ray Tune
and MLflow too. The commands run one after the other (plain, sweep, and in the full form plain
again); as the training time is taken out, what slows it hardly reaches the figures.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.measure import Benchmark, Row, Setting, compared

PLAIN = "python -m rbnn train"
EMPTY_LIMIT, NUM_EMPTY = "1.5 s", 64
NUM_MANY, MANY_EPOCHS = 1000, 10
DECISION_LIMIT, NUM_DECIDED = "0.1 s", 200
ROOT = Path(__file__).parents[1]
BASE = {
    "dataset": "digits",
    "model": "resnet20_1w1a",
    "batch_size": 256,
    "Tmin": 0.3,
    "Tmax": 3.0,
    "gpus": "none",
}


@dataclass(frozen=True)
class Timeline:
    """One training: the wall-clock time at which each epoch was known, and the seconds it reported
    (time/epoch_s).
    """

    times: list[float]
    epoch_s: list[float]

    @property
    def began(self) -> float:
        """When its first epoch began."""
        return self.times[0] - self.epoch_s[0]

    @property
    def beyond(self) -> list[float]:
        """Seconds of each interval between epochs beyond the later epoch's own."""
        intervals = [later - earlier for earlier, later in itertools.pairwise(self.times)]
        return [interval - own for interval, own in zip(intervals, self.epoch_s[1:], strict=True)]


def output_of(module: str, *arguments: str, folder: Path) -> str:
    """What a module of this project prints, its records going to `folder`; RuntimeError with its
    last words where it fails.
    """
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store(folder)}
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if ran.returncode != 0:
        raise RuntimeError(
            f"{module} {' '.join(arguments)} failed:\n{ran.stdout[-1000:]}\n{ran.stderr[-3000:]}"
        )
    return ran.stdout


def store(folder: Path) -> str:
    """The MLflow store of this benchmark."""
    return f"sqlite:///{folder}/sweep.db"


def plain_training(folder: Path, name: str, num_epochs: int) -> tuple[float, Timeline]:
    """Seconds of the whole command, and its epochs."""
    given = {**BASE, "epochs": num_epochs, "results_dir": folder, "save": name}
    options = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    began = time.time()
    lines = output_of("benchmarks.plain_loop", *options, folder=folder).splitlines()
    wall_s = time.time() - began
    rows = [tuple(map(float, line.split())) for line in lines]
    return wall_s, Timeline([row[0] for row in rows], [row[1] for row in rows])


def sweep(folder: Path, num_trials: int, num_epochs: int) -> tuple[float, float, list[Timeline]]:
    """When the command began, its seconds, and the epochs of its trials in the order they ran, one
    at a time.
    """
    content = {
        "name": "bench",
        "base": {**BASE, "epochs": num_epochs},
        "space": {"lr": {"log": [0.05, 0.2]}},
        "trials": num_trials,
        "concurrent": 1,
        "scheduler": "none",
        "confirm_seeds": 0,
    }
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(content))
    began = time.time()
    output_of(
        "tune.cli",
        "sweep",
        str(file),
        "--name",
        "bench",
        "--results_dir",
        str(folder),
        folder=folder,
    )
    wall_s = time.time() - began
    return began, wall_s, sorted(trials(folder), key=lambda trial: trial.began)


def trials(folder: Path) -> Iterator[Timeline]:
    """The trials as MLflow recorded them."""
    from tune.tracking.reader import RunReader

    reader = RunReader.open(store(folder))
    for run in reader.search("tags.`rbnn.kind` = 'trial'"):
        points = sorted(
            reader.client.get_metric_history(run.info.run_id, "time/epoch_s"),
            key=lambda point: point.step,
        )
        yield Timeline(
            [point.timestamp / 1000 for point in points], [point.value for point in points]
        )


def empty_sweep(folder: Path, num_trials: int, num_epochs: int) -> dict[str, float]:
    """Run a sweep of trials that compute nothing; what benchmarks.empty_trials measured."""
    folder.mkdir()
    arguments = str(folder), str(num_trials), str(num_epochs)
    lines = output_of("benchmarks.empty_trials", *arguments, folder=folder).splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return found


def decisions_rows(setting: Setting) -> list[Row]:
    """What proposals, reports and stops of a trial take, of a study in SQLite, with no training."""
    from benchmarks.search.objectives import FAMILIES, Synthetic
    from benchmarks.search.table import BASE as TABLE
    from benchmarks.search.table import DOCUMENTED, SPACE
    from tune.sweep.simulate import simulate

    base = TABLE["digits"].replace(**DOCUMENTED).to_dict()
    del base["val_fraction"], base["train_workers"]
    sweep = {"base": base, "space": SPACE, "trials": NUM_DECIDED}
    storage = f"sqlite:///{setting.folder}/decisions.db"
    began = time.perf_counter()
    simulate(sweep, Synthetic(**FAMILIES["bowl"]), storage=storage)
    seconds = (time.perf_counter() - began) / NUM_DECIDED
    name = f"sweep: its own decisions, one of {NUM_DECIDED} trials"
    return [compared(name, DECISION_LIMIT, [seconds], [0.1])]


def many_trials_rows(setting: Setting) -> list[Row]:
    """Whole commands on a sweep of many trials, against the seconds that they may take."""
    folder = setting.folder / "many"
    empty_sweep(folder, NUM_MANY, MANY_EPOCHS)
    sweep, elsewhere = str(folder / "empty"), f"sqlite:///{folder}/elsewhere.db"
    rows = []
    for line, limit_s in (
        (["status", sweep], 5),
        (["report", sweep], 5),
        (["sync", sweep, "--to", elsewhere], 120),
    ):
        began = time.perf_counter()
        output_of("tune.cli", *line, folder=folder)
        name = f"rbnn {line[0]}, {NUM_MANY:,} trials of {MANY_EPOCHS} epochs"
        rows.append(compared(name, f"{limit_s} s", [time.perf_counter() - began], [limit_s]))
    return rows


def empty_trials_rows(setting: Setting) -> list[Row]:
    """Seconds a trial that computes nothing, two at once, against the 1.5 s that it may take."""
    folder = setting.folder / "empty"
    found = empty_sweep(folder, NUM_EMPTY, 1)
    memory = (
        f"memory of the sweep's process {found['mb_at_16']:.0f} MB at 16 trials, "
        f"{found['mb_at_end']:.0f} MB at {NUM_EMPTY}"
    )
    name = f"sweep: one of {NUM_EMPTY} empty trials, two at once"
    return [compared(name, EMPTY_LIMIT, [found["trial_s"]], [1.5], note=memory)]


def sweep_rows(setting: Setting) -> list[Row]:
    """Seconds beyond training: of each epoch, of each further trial, and of the whole command."""
    num_trials, num_epochs = (8, 6) if setting.full else (2, 2)
    first = plain_training(setting.folder, "plain-1", num_epochs)
    began, sweep_s, timelines = sweep(setting.folder, num_trials, num_epochs)
    plain = [first] + [plain_training(setting.folder, "plain-2", num_epochs)] * setting.full
    beside = [wall_s - sum(timeline.epoch_s) - sum(timeline.beyond) for wall_s, timeline in plain]
    plain_epoch = statistics.median(gap for _, timeline in plain for gap in timeline.beyond)
    plain_start = statistics.median(beside)
    gaps = [gap for timeline in timelines for gap in timeline.beyond]
    between = [later.began - earlier.times[-1] for earlier, later in itertools.pairwise(timelines)]
    epoch_s = statistics.median(value for _, timeline in plain for value in timeline.epoch_s)
    start_s, end_s = timelines[0].began - began, began + sweep_s - timelines[-1].times[-1]
    plain_s = [wall_s for wall_s, _ in plain]
    return [
        compared(
            "sweep: an epoch beyond its training",
            f"{PLAIN} (digest, checkpoint)",
            gaps,
            [plain_epoch] * len(gaps),
            note=f"{statistics.median(gaps) - plain_epoch:+.3f} s on an epoch of {epoch_s:.2f} s "
            "here",
        ),
        compared(
            "sweep: a trial after the first, beyond its epochs",
            f"{PLAIN}, start and end of the process",
            between,
            [plain_start] * len(between),
            note="its end, the next proposal, its start in the same worker process",
        ),
        compared(
            f"sweep: whole command, {num_trials} trials of {num_epochs} epochs",
            f"{num_trials} times {PLAIN}",
            [sweep_s] * len(plain_s),
            [num_trials * value for value in plain_s],
            note=f"{start_s:.1f} s before the first epoch (MLflow, Ray, a worker), {end_s:.1f} s "
            "after the last",
        ),
    ]


NEEDS = ("ray", "optuna", "mlflow")
BENCHMARKS = [
    Benchmark("sweep", PLAIN, sweep_rows, needs=NEEDS),
    Benchmark("sweep of empty trials", EMPTY_LIMIT, empty_trials_rows, needs=NEEDS, full_only=True),
    Benchmark("sweep's decisions", DECISION_LIMIT, decisions_rows, needs=NEEDS, full_only=True),
    Benchmark("many trials", "limits", many_trials_rows, needs=NEEDS, full_only=True),
]
