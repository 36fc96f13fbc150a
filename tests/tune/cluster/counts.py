"""python counts.py: where this code lies, how many recipes and how many sweep files it brings."""

from __future__ import annotations

import rbnn.recipe
import tune.sweep.config


def main() -> None:
    files = rbnn.recipe.recipe_files(), tune.sweep.config.sweep_files()
    print(rbnn.recipe.__file__, *(len(found) for found in files))


if __name__ == "__main__":
    main()
