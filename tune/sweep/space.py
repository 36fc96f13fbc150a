"""The search space of a sweep: from what Optuna proposes (raw) to what a recipe holds, and back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rbnn.errors import RecipeError
from rbnn.recipe import FIELDS, Recipe, check_known
from tune.sweep.param import parse_entry

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Options, apart from Tmin and Tmax, whose values may not go with the baseline or with one another:
# see Recipe and check_model.
TOGETHER = (("lr_type", "lr_decay_step"), ("batch_size",), ("loader",), ("model",))


class Space:
    """`entries` of a sweep file over `baseline`, which holds where nothing is searched; fixed
    entries change the baseline.

    Raises RecipeError, one line, for an unknown option or kind, a range that is empty, not allowed
    by the recipe or misses the baseline's value, values that no recipe may hold together, and for
    `above` in a circle. Tmax is above Tmin untold.
    """

    def __init__(self, entries: Mapping[str, Any], baseline: Recipe) -> None:
        check_known(entries, FIELDS, "option in space")
        parsed = [parse_entry(name, entry) for name, entry in entries.items()]
        self.fixed = {entry.name: entry.choices[0][1] for entry in parsed if entry.kind == "fixed"}
        self.baseline = baseline.replace(**self.fixed)
        self.entries = {entry.name: entry for entry in parsed if entry.kind != "fixed"}
        if not self.entries:
            raise RecipeError(
                "space searches nothing; give at least one range, e.g. lr: {log: [0.01, 1]}"
            )
        tmax = self.entries.get("Tmax")
        if tmax and tmax.is_range and not tmax.above:
            self.entries["Tmax"] = dataclasses.replace(tmax, above="Tmin")
        self._known = self.baseline.to_dict()
        self._order = self._ordered()
        self._check_above()
        self._check_together()
        try:
            self.raw(self._known)
        except RecipeError as error:
            raise RecipeError(f"baseline: {error}") from None

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Option name -> Optuna distribution of its raw value; fixed options are left out."""
        return {name: entry.distribution() for name, entry in self.entries.items()}

    def values(self, raw: Mapping[str, Any], *, rounded: bool = False) -> dict[str, Any]:
        """The recipe values, fixed ones included, of raw values by option name; `rounded` as
        proposals are.

        An entry above another option o moves from [lo, hi] to [max(lo, o (1 + 1e-6)), hi]
        (integers: o + 1), keeping its relative position, on a log scale for `log`; so Tmin < Tmax
        holds whatever a sampler proposes.
        """
        found: dict[str, Any] = {}
        for name in self._order:
            entry = self.entries[name]
            other = found.get(entry.above, self._known.get(entry.above))
            value = entry.value(raw[name], other)
            found[name] = entry.rounded(value, other) if rounded else value
        return {**{name: found[name] for name in self.entries}, **self.fixed}

    def raw(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The raw values of recipe values, else the baseline's; RecipeError outside a range."""
        known, found = {**self._known, **values}, {}
        for name, entry in self.entries.items():
            found[name] = entry.raw(known[name], known.get(entry.above))
        return found

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, as raw values; RecipeError where an entry has infinitely many."""
        columns = []
        for name, entry in self.entries.items():
            if entry.kind in ("log", "linear"):
                raise RecipeError(
                    f"{name} is {entry.kind}, and sampler grid needs finite options; use choice, "
                    "or another sampler"
                )
            whole = range(int(entry.low), int(entry.high) + 1)
            columns.append(list(whole) if entry.is_range else [raw for raw, _ in entry.choices])
        points = itertools.product(*columns)
        return [dict(zip(self.entries, point, strict=True)) for point in points]

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows (option, kind, range in words), searched ones first."""
        rows = [(entry.name, entry.kind, entry.text) for entry in self.entries.values()]
        return rows + [(name, "fixed", str(value)) for name, value in self.fixed.items()]

    def _ordered(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self.entries):
            left = [entry for name, entry in self.entries.items() if name not in order]
            ready = [e.name for e in left if e.above in order or e.above not in self.entries]
            if not ready:
                circle = ", ".join(entry.name for entry in left)
                raise RecipeError(f"space: {circle} wait for one another; remove one 'above'")
            order += ready
        return order

    def _check_together(self) -> None:
        """Options whose validity hangs on one another make a recipe with every value."""
        for group in TOGETHER:
            searched = [name for name in group if name in self.entries]
            columns = [self._tried(name) for name in searched]
            for values in itertools.product(*columns) if searched else []:
                try:
                    recipe = self.baseline.replace(**dict(zip(searched, values, strict=True)))
                    if "model" in searched:  # torch, which a sweep file can do without
                        from rbnn.models import check_model

                        check_model(recipe.model, recipe.dataset)
                except RecipeError as error:
                    raise RecipeError(f"space {', '.join(searched)}: {error}") from None

    def _tried(self, name: str) -> list[Any]:
        entry = self.entries[name]
        return list(entry.ends) if entry.is_range else [value for _, value in entry.choices]

    def _ends(self, name: str) -> tuple[Any, Any]:
        known = self._known[name]
        return self.entries[name].ends if name in self.entries else (known, known)

    def _check_above(self) -> None:
        for entry in self.entries.values():
            if not entry.above:
                continue
            if entry.name == "Tmax" and entry.above != "Tmin":
                raise RecipeError(
                    f"Tmax is always above Tmin and cannot be above {entry.above}; remove its "
                    "'above'"
                )
            top = self._ends(entry.above)[1]
            if entry.floor(top) >= entry.high:
                raise RecipeError(
                    f"{entry.name} ends at {entry.high:g} and must stay above {entry.above}, up "
                    f"to {top:g}; raise that end"
                )
        top, bottom = self._ends("Tmin")[1], self._ends("Tmax")[0]
        tmax = self.entries.get("Tmax")
        if top >= bottom and not (tmax and tmax.above):
            raise RecipeError(
                f"Tmin reaches {top:g} and Tmax may be {bottom:g}; lower Tmin's end, or give Tmax "
                "a log range"
            )
