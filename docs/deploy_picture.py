"""Draws docs/deploying.png: what packages take beside float networks, from the benchmark's record.

python -m benchmarks --full --only package --json FILE
python -m docs.deploy_picture FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("deploying.png")
NETWORKS = {
    "resnet20 cifar10": "resnet20\n32 x 32",
    "vgg_small cifar10": "vgg_small\n32 x 32",
    "resnet18 cifar10": "resnet18\n32 x 32",
    "resnet18 imagenet": "resnet18\n224 x 224",
    "resnet34 imagenet": "resnet34\n224 x 224",
}
FORMS = {"openvino": "#2b6cb0", "onnx": "#8fb8de", "torch": "#c9d7e4"}


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Two panels: times smaller than the checkpoint's weights, times faster than float32 in torch
    (one image, one thread).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (size, speed) = pyplot.subplots(1, 2, figsize=(9, 3.4), width_ratios=(2, 3))
    found = {row["name"]: row["median"] for row in reversed(rows)}  # of two baselines, torch's
    places = range(len(NETWORKS))
    smaller = [1 / found[f"package {name}, file"] for name in NETWORKS]
    size.bar_label(size.bar(places, smaller, color=FORMS["openvino"]), fmt="%.0f", fontsize=8)
    size.set_title("file: times smaller than\nthe checkpoint's weights", fontsize=9)
    for index, (form, colour) in enumerate(FORMS.items()):
        faster = [1 / found[f"package {name}, {form}"] for name in NETWORKS]
        shifted = [place + 0.27 * (index - 1) for place in places]
        bars = speed.bar(shifted, faster, 0.27, color=colour, label=form)
        speed.bar_label(bars, fmt="%.1f", fontsize=7)
    speed.axhline(1, color="black", linewidth=0.7)
    speed.set_title(
        "latency: times faster than the float network in torch\n(one image, one thread)", fontsize=9
    )
    speed.legend(fontsize=8, frameon=False)
    for axes in (size, speed):
        axes.set_xticks(places, list(NETWORKS.values()), fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["rows"], TARGET)
