"""Draws docs/searching.png: what searches return against what they spend, from simulated ones.

python -m docs.search_picture benchmarks/search/compared.jsonl
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.search.compare import BUDGETS, read

TARGET = Path(__file__).with_name("searching.png")
METHODS = {
    "ours": ("Gaussian process, short schedules first (default)", "#2b6cb0"),
    "Ray: OptunaSearch + ASHA": ("Ray: OptunaSearch, ASHA", "#c05621"),
    "Optuna: TPE, median": ("Optuna: TPE, median pruner", "#718096"),
    "random search": ("random, whole trainings", "#b794f4"),
}
OBJECTIVES = {
    "digits": "resnet20 trained on digits",
    "cifar10": "resnet20 trained on CIFAR-10",
    "bowl": "one optimum",
    "crossing": "curves that cross",
    "noisy": "noise",
    "cliff": "an edge beyond which it fails",
}


def draw(file: Path, target: Path) -> None:
    """A panel for each objective, two trials at once: median regret and its quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    searches = defaultdict(list)
    for (name, method, concurrent, _), found in read(file):
        if concurrent == 2:
            searches[name, method].append(found)
    figure, panels = pyplot.subplots(1, len(OBJECTIVES), figsize=(16.5, 3.2))
    for axes, (name, title) in zip(panels, OBJECTIVES.items(), strict=True):
        for method, (label, colour) in METHODS.items():
            low, middle, high = np.quantile(searches[name, method], (0.25, 0.5, 0.75), axis=0)
            axes.plot(BUDGETS, middle, "o-", color=colour, label=label, markersize=3)
            axes.fill_between(BUDGETS, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("spent, whole trainings", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("regret, points of val/top1", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, fontsize=9, frameon=False, loc="lower center")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), TARGET)
