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
from collections.abc import Callable
from pathlib import Path
from typing import Any


def train(folder: Path, head: str) -> Callable[..., None]:
    """What stands for `TrialRun.train`: the same files and reports, in the same order, and no
    training.
    """

    def tiny(self: Any, journal: Any, tell: Callable[[dict[str, Any]], None]) -> None:
        import ray

        from rbnn import checkpoint as ckpt
        from rbnn.engine import BEST, LAST

        for epoch in range(journal.last_epoch + 1, self.recipe.epochs):
            if epoch == 2 and ray.get_runtime_context().get_node_id() != head:
                ask_for_death(folder, ray.get_runtime_context().get_node_id())
            top1 = 50 + epoch + self.recipe.lr
            metrics = {
                "epoch": epoch,
                "val/top1": top1,
                "val/loss": 1.0,
                "time/epoch_s": 0.001,
                "digest": f"{epoch:016x}",
            }
            for name in (BEST, LAST):
                ckpt.save(
                    self.directory / name,
                    ckpt.Checkpoint({}, self.recipe.to_dict(), epoch + 1, metrics=metrics),
                )
            journal.append(metrics)
            with (folder / "trained").open("a") as lines:
                lines.write(f"{self.directory.name} {epoch} {os.getpid()}\n")
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


def trial(config: dict[str, Any], *, folder: str, head: str, **given: Any) -> None:
    """Ray Tune's trainable: `run_trial` with its training replaced."""
    from tune.sweep import trial as module

    module.TrialRun.train = train(Path(folder), head)  # type: ignore[method-assign]
    module.run_trial(config, **given)


def main(folder: Path, name: str, address: str, head: str) -> int:
    from functools import partial

    from rbnn.errors import RequestError
    from rbnn.options import exit_status
    from tune.sweep.config import load_sweep
    from tune.sweep.session import conduct

    os.chdir(folder)
    try:
        return conduct(
            load_sweep("sweep.yaml"),
            name=name,
            address=address,
            trainable=partial(trial, folder=str(folder), head=head),
        )
    except RequestError as error:
        return exit_status(error, "rbnn")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
