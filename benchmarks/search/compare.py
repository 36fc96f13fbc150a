"""How good a setting each way to search returns, against the epochs that it spends.

Simple regret: the best expected val/top1 that the space holds, less that of the setting returned,
which is the best of the trials whose complete schedule is the longest; before one is complete, the
best of all. All ways are played on the same objectives by `tune.sweep.simulate`.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.objectives import CHANCE, FAMILIES, Synthetic, TableObjective
from benchmarks.search.table import BASE, DOCUMENTED, FULL, SPACE
from rbnn.files import write_atomically
from tune.sweep.simulate import SimulatedTrial, play, simulate
from tune.sweep.space import Space

BUDGETS = (5, 10, 20, 40)  # whole trainings
ENDLESS = 100_000
RAY = "Ray: OptunaSearch + ASHA"
ASHA = {"name": "asha", "grace_period": 6, "reduction_factor": 3}
# Sampler and scheduler of a sweep file.
SWEEPS: dict[str, dict[str, Any]] = {
    "ours": {},
    "random search": {"sampler": "random", "scheduler": "none"},
    "tpe + short": {"sampler": "tpe", "scheduler": "short"},
    "random + short": {"sampler": "random", "scheduler": "short"},
    "gp + none": {"sampler": "gp", "scheduler": "none"},
    "gp + asha": {"sampler": "gp", "scheduler": ASHA},
    "tpe + asha": {"sampler": "tpe", "scheduler": ASHA},
    "tpe + none": {"sampler": "tpe", "scheduler": "none"},
    "random + asha": {"sampler": "random", "scheduler": ASHA},
    "tpe + asha, 2 brackets": {"sampler": "tpe", "scheduler": {**ASHA, "brackets": 2}},
}
# Sampler and pruner of Optuna's own loop.
LOOPS = [
    ("TPE", "median"),
    ("TPE", "SuccessiveHalving"),
    ("TPE", "Hyperband"),
    ("TPE", "no pruner"),
    ("GP", "no pruner"),
    ("QMC", "no pruner"),
    ("CMA-ES", "no pruner"),
    ("PriorBand", "Hyperband"),
]
OBJECTIVES = [*BASE, *FAMILIES]
METHODS = [RAY, *SWEEPS, *(f"Optuna: {sampler}, {pruner}" for sampler, pruner in LOOPS)]
Job = tuple[str, str, int, int]


def trials_of(method: str, objective: Any, concurrent: int, seed: int) -> list[SimulatedTrial]:
    """What a way to search does with 40 whole trainings' worth of epochs."""
    spent: dict[str, Any] = {
        "concurrent": concurrent,
        "seed": seed,
        "max_epochs": BUDGETS[-1] * FULL,
    }
    if method in SWEEPS:
        base = BASE["digits"].replace(**DOCUMENTED).to_dict()
        del base["val_fraction"], base["train_workers"]
        sweep = {"base": base, "space": SPACE, "trials": ENDLESS, **SWEEPS[method]}
        return simulate(sweep, objective, **spent)
    from benchmarks.search.peers import PRUNERS, SAMPLERS, OptunaLoop, RayPair

    space = Space(SPACE, BASE["digits"].replace(**DOCUMENTED))
    peer: Any
    if method == RAY:
        peer = RayPair(space, FULL, seed)
    else:
        sampler, pruner = method.removeprefix("Optuna: ").split(", ")
        peer = OptunaLoop(space, FULL, SAMPLERS[sampler](seed), PRUNERS[pruner](), seed)
    return play(peer, peer.scheduler, objective, num_epochs=FULL, num_trials=ENDLESS, **spent)


def regrets(trials: Sequence[SimulatedTrial], objective: Any) -> list[float]:
    """Simple regret in percent after each of BUDGETS."""
    found = []
    for budget in BUDGETS:
        ended = [t for t in trials if t.ended_after <= budget * FULL and t.state != "failed"]
        best = max(ended, key=merit, default=None)
        reached = objective.quality(best.values) if best else CHANCE
        found.append(round(float(objective.best - reached), 2))
    return found


def merit(trial: SimulatedTrial) -> tuple[int, float]:
    """Longer complete schedules first, then the score."""
    return trial.num_epochs if trial.state == "complete" else 0, trial.score


@cache
def objective_of(name: str, seed: int) -> Any:
    """The table's, which is one, or a synthetic one of that seed."""
    return Synthetic(**FAMILIES[name], seed=seed) if name in FAMILIES else TableObjective(name)


def measure(job: Job) -> tuple[Job, list[float]]:
    """The regrets of one simulated search."""
    name, method, concurrent, seed = job
    objective = objective_of(name, seed if name in FAMILIES else 0)
    return job, regrets(trials_of(method, objective, concurrent, seed), objective)


def compare(
    names: Sequence[str], methods: Sequence[str], num_seeds: int, file: Path, num_processes: int
) -> None:
    """Simulate what `file` lacks, seed by seed, and print the table. Each search is a line as soon
    as it has ended; in the end those of consecutive seeds become one.
    """
    jobs = [
        (name, method, concurrent, seed)
        for seed in range(num_seeds)
        for name in names
        for concurrent in (2, 8)
        for method in methods
    ]
    known = dict(read(file))
    write_atomically(file, "".join(lines(known)))  # without a line that was cut off
    missing = [job for job in jobs if job not in known]
    with (
        multiprocessing.get_context("spawn").Pool(num_processes) as pool,
        file.open("a", encoding="utf-8") as out,
    ):
        for job, found in pool.imap_unordered(measure, missing, chunksize=8):
            known[job] = found
            out.write(line(job, [found]))
            out.flush()
    write_atomically(file, "".join(lines(known)))
    print("\n".join(table({job: known[job] for job in jobs})))


def read(file: Path) -> Iterator[tuple[Job, list[float]]]:
    """The searches that a file holds; a line that was cut off holds none."""
    for text in file.read_text(encoding="utf-8").splitlines(True) if file.is_file() else []:
        if text.endswith("\n"):
            name, method, concurrent, first, by_seed = json.loads(text)
            for seed, found in enumerate(by_seed, first):
                yield (name, method, concurrent, seed), found


def lines(known: dict[Job, list[float]]) -> Iterator[str]:
    """The lines of a file of these searches."""
    seeds: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for name, method, concurrent, seed in sorted(known):
        seeds[name, method, concurrent].append(seed)
    for way, all_seeds in seeds.items():
        for _, pairs in itertools.groupby(enumerate(all_seeds), lambda pair: pair[1] - pair[0]):
            own = [seed for _, seed in pairs]
            yield line((*way, own[0]), [known[*way, seed] for seed in own])


def line(first: Job, by_seed: list[list[float]]) -> str:
    """One line: a search, and the regrets of its seed and of those that follow."""
    return json.dumps([*first, by_seed], separators=(",", ":")) + "\n"


def table(known: dict[Any, list[float]]) -> Iterator[str]:
    """Markdown: median regret and its quartiles after each of BUDGETS, a line for each way."""
    groups: dict[tuple[str, int], dict[str, list[list[float]]]] = defaultdict(dict)
    for (name, method, concurrent, _), found in known.items():
        groups[name, concurrent].setdefault(method, []).append(found)
    for (name, concurrent), by_method in groups.items():
        num_seeds = len(next(iter(by_method.values())))
        yield f"\n{name}, {concurrent} at once, {num_seeds} seeds\n"
        yield "| way to search | " + " | ".join(f"{b} trainings" for b in BUDGETS) + " |"
        yield "|---" * (1 + len(BUDGETS)) + "|"
        for method, searches in by_method.items():
            yield f"| {method} | " + " | ".join(map(spread, zip(*searches, strict=True))) + " |"


def spread(found: Sequence[float]) -> str:
    """Median (lower quartile..upper quartile)."""
    low, high = np.quantile(found, (0.25, 0.75))
    return f"{statistics.median(found):.2f} ({low:.2f}..{high:.2f})"
