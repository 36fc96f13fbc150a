"""Puts the network on Ray, searches, records in MLflow, and replays. In Python:

import tune
sweep = tune.run_sweep("quickstart")          tune/cli/sweep.py
sweep.trials, sweep.best, sweep.figure("curves")
tune.replay(RUN_ID, verify=True).verdict      tune/cli/run.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.cli.run import Replay, replay, train
    from tune.cli.sweep import Sweep, open_sweep, run_sweep

__all__ = ["Replay", "Sweep", "open_sweep", "replay", "run_sweep", "train"]
MODULES = {"Replay": "run", "replay": "run", "train": "run"}


def __getattr__(name: str) -> Any:
    """Each is imported when it is first asked for, as every process of a sweep imports `tune`."""
    if name not in __all__:
        raise AttributeError(f"module 'tune' has no attribute '{name}'")
    from importlib import import_module

    from rbnn.threading_env import set_threading

    set_threading()
    return getattr(import_module(f"tune.cli.{MODULES.get(name, 'sweep')}"), name)
