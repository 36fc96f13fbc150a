"""A run that may kill its own process half-way through a checkpoint:
`killed.py RECIPE FOLDER FATAL_SAVE`. Prints an epoch's metrics, and "step" after each step.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rbnn.data import digits
from rbnn.recipe import Recipe
from tests.rbnn import small

saves = itertools.count(1)
save = torch.save


def save_or_die(content: Any, file: Any) -> None:
    if next(saves) == int(sys.argv[3]):
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, file)


class Printer(small.Listener):
    def __call__(self, metrics: dict[str, Any], path: Path | None) -> None:
        print(json.dumps(metrics), flush=True)

    def progress(self, *place: int) -> None:
        print("step", flush=True)


if __name__ == "__main__":
    few = small.few_digits()
    digits.read = lambda: few
    torch.save = save_or_die
    small.train_part(Recipe(**json.loads(sys.argv[1])), Path(sys.argv[2]), Printer())
