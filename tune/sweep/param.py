"""One entry of a sweep file's search space, e.g. `lr: {log: [0.01, 1]}`: parsing, its Optuna
distribution, raw to recipe value.

u: a raw value, what Optuna proposes, in a range [lo, hi] that never changes (the multivariate
samplers need that). v: the recipe value, equal to u unless the entry is `above` another option; see
`tune.sweep.space.Space.values`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbnn.errors import RecipeError
from rbnn.recipe import FIELDS, TYPES, check_known, checked

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KEYS_BESIDE = {"log": ["above"], "linear": ["above"], "integer": ["log", "above"]}  # by kind
KINDS = (*KEYS_BESIDE, "boolean", "choice", "fixed")
FITTING = {int: "integer or choice", float: "log, linear or choice", bool: "boolean"}
ABOVE_FACTOR = 1 + 1e-6
DIGITS = 4  # significant digits of a proposed value
NOT_SEARCHED = {
    "dataset": "scores would not compare; make one sweep per data set",
    "epochs": "trials compare at equal epochs; set it under base",
    "train_images": "scores would not compare; set it under base",
    "val_fraction": "scores would not compare; set it at the top of the sweep file",
    "train_workers": "set workers_per_trial at the top of the sweep file",
    "gpus": "set gpus_per_trial at the top of the sweep file",
}


@dataclass(frozen=True)
class SearchParam:
    """An option searched or fixed: a range [low, high], or `choices`, pairs (raw, recipe value)."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[tuple[Any, Any], ...] = ()
    above: str = ""

    @property
    def is_range(self) -> bool:
        return self.kind in KEYS_BESIDE

    @property
    def text(self) -> str:
        """The range in words, e.g. `0.5 to 30, above Tmin`."""
        if self.is_range:
            above = f", above {self.above}" if self.above else ""
            return f"{self.low:g} to {self.high:g}{above}"
        words = [str(raw).lower() if isinstance(raw, bool) else str(raw) for raw, _ in self.choices]
        return ", ".join(words)

    @property
    def ends(self) -> tuple[Any, Any]:
        """The smallest and the largest value a numeric entry can take."""
        if self.is_range:
            return self.low, self.high
        values = [value for _, value in self.choices]
        return min(values), max(values)

    def distribution(self) -> BaseDistribution:
        """The static Optuna distribution of the raw value."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "integer":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        if self.is_range:
            return FloatDistribution(self.low, self.high, log=self.log)
        return CategoricalDistribution([raw for raw, _ in self.choices])

    def value(self, raw: Any, other: float | None) -> Any:
        """The recipe value v of a raw value u; `other`: the value to stay above, or None."""
        if not self.is_range:
            return next(value for choice, value in self.choices if choice == raw)
        return self._moved(raw, (self.low, self.high), (self.floor(other), self.high))

    def rounded(self, value: Any, other: float | None) -> Any:
        """A recipe value of a range to DIGITS significant digits, if that is inside its ends."""
        floor = self.floor(other)
        if not self.is_range or not isinstance(value, float):
            return value
        near = float(f"{value:.{DIGITS}g}")
        step = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1) if value else 0.0
        for found in (near, near + step, near - step):
            found = float(f"{found:.{DIGITS}g}")
            if floor <= found <= self.high:
                return found
        return value

    def raw(self, value: Any, other: float | None) -> Any:
        """The inverse of `value`; RecipeError, one line, where `value` cannot be reached."""
        floor = self.floor(other)
        if self.is_range and floor <= value <= self.high:
            return self._moved(value, (floor, self.high), (self.low, self.high))
        for raw, known in self.choices:
            if known == value:
                return raw
        raise RecipeError(
            f"{self.name} is {value!r}, outside its search space ({self.text}); widen it, or "
            "change the value"
        )

    def floor(self, other: float | None) -> float:
        """The least value the entry takes while the option it must stay above is `other`."""
        if other is None:
            return self.low
        least = math.floor(other) + 1 if self.kind == "integer" else other * ABOVE_FACTOR
        return max(self.low, least)

    def _moved(self, x: Any, old: tuple[float, float], new: tuple[float, float]) -> Any:
        """x at the same relative position in another range; integers move linearly, which alone can
        be undone exactly. 12 digits, so that there and back returns a value such as 0.3 unchanged.
        """
        if old == new:
            return x
        if self.kind == "log":
            share = math.log(x / old[0]) / math.log(old[1] / old[0])
            moved = new[0] * (new[1] / new[0]) ** share
        else:
            share = (x - old[0]) / (old[1] - old[0])
            moved = new[0] + (new[1] - new[0]) * share
        moved = round(moved) if self.kind == "integer" else float(f"{moved:.12g}")
        return min(max(moved, new[0]), new[1])


def parse_entry(name: str, given: Any) -> SearchParam:
    """The SearchParam of one line of `space`; RecipeError, one line, for what is not allowed."""
    if name in NOT_SEARCHED or FIELDS[name].metadata["affects"] == "nothing":
        why = NOT_SEARCHED.get(name, "it changes no result")
        raise RecipeError(f"{name} cannot be searched: {why}")
    options = {"boolean": True} if given == "boolean" else given
    example = f"{', '.join(KINDS)}, e.g. {{log: [0.01, 1]}}"
    if not isinstance(options, dict):
        raise RecipeError(f"space {name} is {given!r}; give a kind of {example}")
    kinds = [kind for kind in KINDS if kind in options]
    if "integer" in kinds and "log" in kinds:  # an integer range on a log scale
        kinds.remove("log")
    if len(kinds) != 1:
        raise RecipeError(f"space {name} is {given!r}; give exactly one of {example}")
    kind = kinds[0]
    known = [kind, *KEYS_BESIDE.get(kind, [])]
    check_known(options, dict.fromkeys(known), f"key in space {name}")
    if kind in KEYS_BESIDE:
        return _range_entry(name, kind, options)
    if kind != "boolean":
        return _choice_entry(name, kind, [options[kind]] if kind == "fixed" else options[kind])
    if TYPES[name] is not bool or options[kind] is not True:
        raise RecipeError(
            f"space {name} is {given!r}; boolean fits true-or-false options only, and is written: "
            "boolean"
        )
    return SearchParam(name, kind, choices=((False, False), (True, True)))


def _range_entry(name: str, kind: str, options: dict[str, Any]) -> SearchParam:
    wanted, ends, above = TYPES[name], options[kind], options.get("above", "")
    if (wanted is not int and kind == "integer") or (wanted is not float and kind != "integer"):
        fit = FITTING.get(wanted, "choice")
        raise RecipeError(f"space {name}: {kind} does not fit this option; use {fit}")
    if not isinstance(ends, list) or len(ends) != 2:
        raise RecipeError(f"space {name}: {kind} is {ends!r}; give both ends, e.g. [1, 5]")
    low, high = (_allowed(name, end) for end in ends)
    log = options.get("log", False) if kind == "integer" else kind == "log"
    if not isinstance(log, bool) or low >= high or (log and low <= 0):
        positive = ", from above 0," if log else ""
        raise RecipeError(
            f"space {name} is {options!r}; it must rise{positive} and log be true or false "
            "(for one value use fixed)"
        )
    if above and (above not in FIELDS or TYPES[above] not in (int, float)):
        raise RecipeError(f"space {name} is above {above!r}; name another numeric recipe option")
    return SearchParam(name, kind, low, high, log, above=above)


def _choice_entry(name: str, kind: str, given: Any) -> SearchParam:
    plain = isinstance(given, list) and not any(isinstance(each, (list, dict)) for each in given)
    if not plain or not given:
        raise RecipeError(
            f"space {name}: {kind} is {given!r}; give plain values, e.g. [1, 2], and lists as "
            "text: '30 60 90'"
        )
    values = [_allowed(name, value) for value in given]
    if any(value in values[:place] for place, value in enumerate(values)):
        raise RecipeError(f"space {name}: choice {given!r} holds a value twice; remove one")
    return SearchParam(name, kind, choices=tuple(zip(given, values, strict=True)))


def _allowed(name: str, value: Any) -> Any:
    try:
        return allowed(name, value)
    except RecipeError as error:
        raise RecipeError(f"space {name}: {error}") from None


def allowed(name: str, value: Any) -> Any:
    """`value` as a recipe holds it, e.g. 0.01 of the text 1e-2; RecipeError where none may."""
    value = checked(name, value)
    return list(value) if isinstance(value, tuple) else value
