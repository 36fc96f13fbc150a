"""A key of a sweep file as one field of a dataclass: its default, what it may hold, a test."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any

from rbnn.errors import RecipeError
from rbnn.recipe import check_known

Keys = Mapping[str, Mapping[str, Any]]
Check = tuple[str, Callable[[Any], bool]]  # what a value must be, and whether it is
SAMPLERS = ("gp", "tpe", "random", "grid")
SCHEDULERS = ("short", "asha", "none")


def key(default: Any, check: Check, name: str = "") -> Any:
    """A key, named as its field or `name`; default None where others decide what it is then."""
    return field(metadata={"default": default, "must": check[0], "holds": check[1], "name": name})


def whole(least: int) -> Check:
    return f"a whole number of at least {least}", lambda v: type(v) is int and v >= least


def one_of(names: Sequence[str]) -> Check:
    return "one of " + ", ".join(names), lambda v: v in names


def is_number(v: Any) -> bool:
    return type(v) in (int, float) and abs(v) < float("inf")


def is_name(v: Any) -> bool:
    return isinstance(v, str) and bool(re.fullmatch(r"[A-Za-z0-9._-]+", v))


NAME: Check = ("letters, digits, '-', '_' and '.'", is_name)
TEXT: Check = ("text", lambda v: isinstance(v, str))
OPTIONS: Check = ("a mapping of 'option: value' lines", lambda v: isinstance(v, dict))
RANGES: Check = (
    "a mapping with at least one range, e.g. lr: {log: [0.01, 1]}",
    lambda v: isinstance(v, dict) and bool(v),
)
SETTINGS: Check = (
    "a list of settings, e.g. [{lr: 0.2, Tmax: 5}]",
    lambda v: isinstance(v, list) and all(isinstance(point, dict) and point for point in v),
)
SCHEDULER: Check = (
    f"one of {', '.join(SCHEDULERS)}, or a mapping such as {{name: asha, grace_period: 6}}",
    lambda v: isinstance(v, dict) or v in SCHEDULERS,
)
MINUTES: Check = ("minutes above 0", lambda v: v is None or (is_number(v) and v > 0))
GPUS: Check = (
    "0, a fraction up to 1, or a whole number",
    lambda v: is_number(v) and v >= 0 and (v <= 1 or v == int(v)),
)
FLAG: Check = ("true or false", lambda v: type(v) is bool)
SHARE: Check = ("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)
FACTOR: Check = ("a number of at least 2", lambda v: is_number(v) and v >= 2)


def keys_of(kind: type) -> Keys:
    """The keys that the fields of a dataclass stand for."""
    known = [each for each in fields(kind) if each.metadata]
    return {each.metadata["name"] or each.name: each.metadata for each in known}


def with_defaults(values: Mapping[str, Any], keys: Keys, kind: str) -> dict[str, Any]:
    """A value for each key; RecipeError for an unknown one, or a value that its key cannot hold."""
    check_known(values, keys, kind)
    for name, value in values.items():
        if not keys[name]["holds"](value):
            raise RecipeError(f"{name} is {value!r}; it must be {keys[name]['must']}")
    return {name: values.get(name, known["default"]) for name, known in keys.items()}
