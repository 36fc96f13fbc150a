"""A sweep on a cluster whose trials compute nothing. The first at epoch 2 away from the head asks
for its node's death.

python tests/tune/cluster/cluster_sweep.py FOLDER NAME ADDRESS HEAD_NODE_ID: runs FOLDER/sweep.yaml.
FOLDER/trained gets a line for every epoch that a trial trains, FOLDER/victim the id of the node
that is to be killed; the trial there then waits for its end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def train(folder: Path, head: str) -> Callable[..., None]:
    """What stands for `train_trial`: its files and reports, and no training."""

    def tiny(trial: Any, journal: Any, tell: Callable[[dict[str, Any]], None]) -> None:
        import ray

        from tests.tune.tiny_sweep import metrics_of, save

        for epoch in range(journal.last_epoch + 1, trial.recipe.epochs):
            node = ray.get_runtime_context().get_node_id()
            if epoch == 2 and node != head:
                ask_for_death(folder, node)
            while epoch == 2 and not (folder / "victim").exists():
                time.sleep(0.05)  # else the head might train all, before the others have begun
            values = trial.recipe.to_dict()
            metrics = metrics_of(values, epoch)
            save(trial.directory, values, metrics)
            journal.append(metrics)
            with (folder / "trained").open("a") as lines:
                lines.write(f"{trial.directory.name} {epoch} {os.getpid()}\n")
            tell(metrics)

    return tiny


def ask_for_death(folder: Path, node: str) -> None:
    """Name this node as the victim, once, and wait for its end."""
    try:
        with (folder / "victim").open("x") as file:
            file.write(node)
    except FileExistsError:
        return
    while True:
        signal.pause()


def main(folder: Path, name: str, address: str, head: str) -> int:
    from functools import partial

    from rbnn.errors import RequestError
    from rbnn.options import exit_status
    from tune.cli.sweep import run_sweep
    from tune.cli.sweeps import status_of
    from tune.sweep.trial import run_trial

    os.chdir(folder)
    trainable = partial(run_trial, train=train(folder, head))
    try:
        return status_of(run_sweep("sweep.yaml", name=name, address=address, trainable=trainable))
    except RequestError as error:
        return exit_status(error, "rbnn")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
