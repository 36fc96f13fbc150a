"""The table: real training curves of RBNN over a wide space, a JSON line per finished training.

A line of `<data>.jsonl` is a training {setting, seed, epochs, values, top1}: `top1` the val/top1 in
percent of each epoch, ended early where the loss was no longer finite. A line with `cpu` says what
the lines after it were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from rbnn.recipe import Recipe
from tune.sweep.space import Space

FOLDER = Path(__file__).parent
SPACE = {
    "lr": {"log": [0.005, 0.5]},
    "Tmin": {"log": [0.01, 2.0]},
    "Tmax": {"log": [1.0, 30.0]},
    "rotation_update": {"integer": [1, 16], "log": True},
    "warm_up": "boolean",
    "weight_decay": {"log": [1e-5, 1e-2]},
}
DOCUMENTED = {
    "lr": 0.1,
    "Tmin": 0.01,
    "Tmax": 10.0,
    "rotation_update": 1,
    "warm_up": True,
    "weight_decay": 1e-4,
}
# Epochs of a whole training, and of the complete short ones: a third and a tenth.
FULL, THIRD, TENTH = 10, 3, 1
BASE = {
    "digits": Recipe(dataset="digits", model="resnet20_1w1a", epochs=FULL, batch_size=32),
    "cifar10": Recipe(dataset="cifar10", model="resnet20_1w1a", epochs=FULL, batch_size=64),
}
NUM_SETTINGS = {"digits": 200, "cifar10": 40}
NUM_SHORT = {"digits": 66, "cifar10": 20}
NOISE_EVERY = 10  # after every tenth setting, two further seeds of one


@dataclass(frozen=True)
class Job:
    """One training of the table. setting: 0 is the documented one, others points of the Sobol
    sequence.
    """

    data: str
    setting: int
    seed: int
    epochs: int

    @property
    def key(self) -> tuple[int, int, int]:
        return self.setting, self.seed, self.epochs


def jobs(data: str) -> Iterator[Job]:
    """Every training of a table, in an order of which any beginning is useful."""
    for setting in range(NUM_SETTINGS[data] + 1):
        yield Job(data, setting, 1, FULL)
        if setting < NUM_SHORT[data]:
            yield Job(data, setting, 1, THIRD)
            yield Job(data, setting, 1, TENTH)
        if setting % NOISE_EVERY == 0:
            yield Job(data, setting // NOISE_EVERY, 2, FULL)
            yield Job(data, setting // NOISE_EVERY, 3, FULL)


def settings(data: str) -> list[dict[str, Any]]:
    """The recipe values of each setting: the documented ones, then a scrambled Sobol sequence."""
    space = Space(SPACE, BASE[data].replace(**DOCUMENTED))
    points = qmc.Sobol(len(space.entries), rng=13).random_base2(8)[: NUM_SETTINGS[data]]
    found = [DOCUMENTED]
    for point in points:
        raw = {
            name: raw_at(entry.distribution(), share)
            for (name, entry), share in zip(space.entries.items(), point, strict=True)
        }
        found.append({k: rounded(v) for k, v in space.values(raw).items()})
    return found


def raw_at(distribution: Any, share: float) -> Any:
    """The value at a share from 0 to 1 of an Optuna distribution's range."""
    if hasattr(distribution, "choices"):
        return distribution.choices[int(share * len(distribution.choices))]
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    return round(value) if isinstance(low, int) else value


def rounded(value: Any) -> Any:
    """A float to four significant digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read(data: str) -> list[dict[str, Any]]:
    """The finished trainings of a table; a line that a kill left unfinished is passed over."""
    file = FOLDER / f"{data}.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "top1" in row:
            found.append(row)
    return found
