"""The Ray that this process uses: the cluster at RAY_ADDRESS, or a local one that ends with the work."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbnn.threading_env import THREADING

PROJECT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # how late a nested trial's metrics arrive; Ray's own default is 2
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "10",
    **THREADING,
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the sweep's own matter: tune.sweep.set_by_signals
}


@contextmanager
def connected() -> Iterator[None]:
    """Ray initialised within: joined at RAY_ADDRESS, else started here with its dashboard, which early stopping of nested
    trials needs, and shut down at the end. An initialised Ray is used as it is.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # a failed trial's traceback is in its error.txt, its cause is recorded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        env = {name: os.environ[name] for name in SETTINGS} | {"PYTHONPATH": _python_path()}
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=None if os.environ.get("RAY_ADDRESS") else True,
            runtime_env={"env_vars": env},
        )
    try:
        yield
    finally:
        ray.shutdown()


def _python_path() -> str:
    """PYTHONPATH with this project first, so that workers on this machine import the same packages."""
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
