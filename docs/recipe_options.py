"""Writes docs/recipe-options.md from the fields of Recipe.

python -m docs.recipe_options
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from rbnn.recipe import FIELDS, TYPES

TARGET = Path(__file__).with_name("recipe-options.md")
HEAD = """# Recipe options

```bash
rbnn train --help
```

Every option of a recipe, with its default. The names are the same on the command line
(`--lr 0.05`), in a recipe file (`lr: 0.05`), under `base` and `space` of a
[sweep file](sweep-files.md) and in Python (`Recipe(lr=0.05)`).

On the command line a yes-or-no option is `--warm_up` or `--no-warm_up`, a list
`--lr_decay_step 30 60 90`. In a recipe file write `warm_up: true` and
`lr_decay_step: [30, 60, 90]`.

This page is made from `rbnn/recipe.py` by `python -m docs.recipe_options`.
"""
SECTIONS = {
    "result": """## What makes another recipe

Another value here is another experiment, whose accuracy is its own.
""",
    "bits": """## What changes the bits of a result

Another value here measures the same recipe again: the accuracy is owed within the noise, the
bits are not.
""",
    "nothing": """## What changes nothing in a result

Folders, printing, and what is kept: the same to the bit.
""",
}
TYPE_WORDS = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}


def page() -> str:
    """The whole page as text."""
    parts = [HEAD]
    for affects, introduction in SECTIONS.items():
        rows = ["| option | default | allowed | meaning |", "|---|---|---|---|"]
        rows += [row(spec) for spec in FIELDS.values() if spec.metadata["affects"] == affects]
        parts.append("\n".join([introduction, *rows, ""]))
    return "\n".join(parts)


def row(spec: dataclasses.Field[Any]) -> str:
    """An option as a row of its table."""
    name = f"`{spec.name}`"
    if spec.metadata["short"]:
        name += f", `-{spec.metadata['short']}`"
    cells = [name, default_of(spec), allowed_in(spec), spec.metadata["meaning"].replace("*", "\\*")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def default_of(spec: dataclasses.Field[Any]) -> str:
    """The default as a recipe file writes it."""
    if spec.default in ("", ()):
        return "none"
    if isinstance(spec.default, bool):
        return "yes" if spec.default else "no"
    return f"`{spec.default}`"


def allowed_in(spec: dataclasses.Field[Any]) -> str:
    """What the option may hold, in words."""
    if spec.metadata["check"]:
        return str(spec.metadata["check"][1])
    choices = typing.get_args(TYPES[spec.name])
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    return TYPE_WORDS[TYPES[spec.name]]


if __name__ == "__main__":
    TARGET.write_text(page())
