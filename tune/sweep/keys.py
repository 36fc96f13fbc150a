"""The keys of a sweep file and what each may hold by itself; what they must be together is checked
in `tune.sweep.config`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rbnn.errors import RecipeError
from rbnn.recipe import check_known

SAMPLERS = ("tpe", "gp", "random", "grid")
SCHEDULERS = ("asha", "none")

Check = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> Check:
    return (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        f"a whole number of at least {least}",
    )


def _number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool)


TEXT: Check = (lambda v: isinstance(v, str), "text")
MAPPING: Check = (lambda v: isinstance(v, dict), "a mapping of 'option: value' lines")
KEYS: dict[str, Check] = {
    "name": (
        lambda v: isinstance(v, str) and bool(re.fullmatch(r"[A-Za-z0-9._-]+", v)),
        "letters, digits, '-', '_' and '.'",
    ),
    "description": TEXT,
    "recipe": TEXT,
    "base": MAPPING,
    "space": (
        lambda v: isinstance(v, dict) and bool(v),
        "a mapping with at least one range, e.g. lr: {log: [0.01, 1]}",
    ),
    "first": (
        lambda v: isinstance(v, list) and all(isinstance(point, dict) and point for point in v),
        "a list of settings, e.g. [{lr: 0.2, Tmax: 5}]",
    ),
    "trials": _whole(1),
    "time_budget_min": (
        lambda v: v is None or (_number(v) and 0 < v < float("inf")),
        "minutes above 0",
    ),
    "concurrent": _whole(0),
    "seed": _whole(0),
    "sampler": (lambda v: v in SAMPLERS, "one of " + ", ".join(SAMPLERS)),
    "scheduler": (
        lambda v: isinstance(v, dict) or v in SCHEDULERS,
        "a mapping such as {name: asha, grace_period: 6}",
    ),
    "workers_per_trial": _whole(1),
    "gpus_per_trial": (
        lambda v: _number(v) and (0 <= v <= 1 or (1 < v < float("inf") and v == int(v))),
        "0, a fraction up to 1, or a whole number",
    ),
    "max_failures": _whole(0),
    "confirm_top": _whole(1),
    "confirm_seeds": _whole(0),
    "storage": TEXT,
    "storage_path": TEXT,
    "val_fraction": (lambda v: _number(v) and 0 <= v < 1, "a number from 0 to below 1"),
}
SCHEDULER_KEYS: dict[str, Check] = {
    "name": (lambda v: v in SCHEDULERS, "one of " + ", ".join(SCHEDULERS)),
    "grace_period": _whole(1),
    "reduction_factor": (lambda v: _number(v) and 2 <= v < float("inf"), "a number of at least 2"),
    "brackets": _whole(1),
}


def check_keys(values: Mapping[str, Any], keys: Mapping[str, Check], kind: str) -> None:
    """RecipeError, one line, for a key that is not among `keys`, or a value that its key may not
    hold.
    """
    check_known(values, keys, kind)
    for key, value in values.items():
        if not keys[key][0](value):
            raise RecipeError(f"{key} is {value!r}; it must be {keys[key][1]}")
