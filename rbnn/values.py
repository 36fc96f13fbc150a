"""What an option of a recipe may hold: its declaration, its checks, and its values as people write
them in the types that a recipe holds.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import field
from typing import Any, Literal

from rbnn.errors import RecipeError

PERCENT_DIGITS = 4  # decimals of accuracies; one of a million images is still seen
Check = tuple[Callable[[Any], bool], str]
POSITIVE: Check = (lambda v: math.isfinite(v) and v > 0, "a finite number above 0")
NOT_NEGATIVE: Check = (lambda v: math.isfinite(v) and v >= 0, "a finite number of at least 0")
FRACTION: Check = (lambda v: 0 <= v < 1, "a number from 0 to below 1")
FROM_ZERO: Check = (lambda v: v >= 0, "a whole number of at least 0")
SEED: Check = (lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295")
FROM_ONE: Check = (lambda v: v >= 1, "a whole number of at least 1")


RISING: Check = (
    lambda v: min(v, default=1) >= 1 and list(v) == sorted(set(v)),
    "rising epochs of at least 1, e.g. 30 60 90",
)
Affects = Literal["result", "bits", "nothing"]


def option(
    default: Any,
    meaning: str,
    check: Check | None = None,
    *,
    short: str = "",
    affects: Affects = "result",
) -> Any:
    """A field of Recipe. `affects`: what another value makes of a run.

    "result": another recipe, whose accuracy is another's. "bits": a measurement of the same recipe,
    computed elsewhere or otherwise. "nothing": the same to the bit, as of folders and printing.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "check": check, "short": short, "affects": affects},
    )


def plain(value: Any) -> Any:
    """A value as YAML and JSON write it."""
    return list(value) if isinstance(value, tuple) else value


def converted(name: str, wanted: Any, value: Any) -> Any:
    """`value` of the option `name` in the type wanted; RecipeError where it is of another. Whole
    floats pass for int, digits for numbers.
    """
    if typing.get_origin(wanted) is Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise RecipeError(f"{name} is {value!r}; choose {' or '.join(choices)}")
        return value
    if typing.get_origin(wanted) is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise RecipeError(
                f"{name} is {value!r}; it must be a list of whole numbers, e.g. 30 60 90"
            )
        return tuple(_scalar(name, int, part) for part in parts)
    return _scalar(name, wanted, value)


def _scalar(name: str, wanted: type, value: Any) -> Any:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    refusal = RecipeError(f"{name} is {value!r}; it must be {words[wanted]}")
    if wanted is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    # A bool is an int to Python, and no number to a user.
    if wanted is bool or isinstance(value, bool):
        raise refusal
    if wanted is str:
        if not isinstance(value, (str, int, type(None))):
            raise refusal
        return "" if value is None else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise refusal from None
    if wanted is float:
        return number
    if not number.is_integer():
        raise refusal
    try:
        return int(value)  # exact, where a float above 2**53 is not
    except ValueError:  # text such as 1e3
        return int(number)
