"""The Ray that this process uses: a cluster at RAY_ADDRESS or --address, or a local one that ends
with the work.

Token authentication is on everywhere: Ray turns it on for a Ray it starts here; for a cluster it is
turned on where a token is at hand (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token), which
must be the one of the cluster.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rbnn.errors import RequestError, one_line
from rbnn.threading_env import THREADING, set_threading
from tune.sweep.placement import Capacity, Node

PROJECT = Path(__file__).resolve().parents[2]
CODE = ("rbnn", "tune", "experiments")  # what a node needs of a source tree
CONNECT_TIMEOUT_S = 5.0
DEFAULT_PORT = 6379
DAEMONS = ("raylet", "gcs_server")
JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job
TOKEN_REMEDY = (
    "copy the head's ~/.ray/auth_token to the same place here (file mode 600), or give its path "
    "in RAY_AUTH_TOKEN_PATH"
)
SETTINGS = {
    # how late a nested trial's metrics arrive; Ray's own default is 2
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "10",
    # Ctrl-C is the sweep's own matter: tune.sweep.plan.set_by_signals
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def cluster_address(address: str = "") -> str:
    """`address`, else RAY_ADDRESS, checked to be one that a driver can join; "" for a local Ray."""
    given = (address or os.environ.get("RAY_ADDRESS", "")).strip()
    if given == "local":
        return ""
    if given.startswith(("http://", "https://", "ray://")):
        raise RequestError(
            f"address '{given}' is not one that a sweep here can join; hand the sweep over with "
            "--submit --address "
            "http://HEAD:8265, or run it on a node of the cluster with --address HEAD:6379 (or "
            "auto)"
        )
    return given


def settings() -> dict[str, str]:
    """SETTINGS and how threads wait, put into this process's environment where the user has not
    chosen; as they then are.
    """
    set_threading()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return {name: os.environ[name] for name in (*SETTINGS, *THREADING) if name in os.environ}


@contextmanager
def connected(address: str = "", gpus: Sequence[int] = ()) -> Iterator[None]:
    """Ray initialised within: joined at `address` or RAY_ADDRESS, else started here with its
    dashboard, which early stopping of nested trials needs, and shut down at the end. An initialised
    Ray is used as it is.

    gpus: numbers of the GPUs that a Ray started here may hand out; all of them where empty.
    Raises RequestError, one line, for a cluster that does not answer or refuses.
    """
    env = settings()
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # a failed trial's traceback is in its error.txt, its cause is recorded
    joining = cluster_address(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if joining:
            _join(joining)
        else:
            env["PYTHONPATH"] = _python_path()
            quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
            with only_gpus(gpus):
                ray.init(
                    address="local", include_dashboard=True, runtime_env={"env_vars": env}, **quiet
                )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def only_gpus(numbers: Sequence[int]) -> Iterator[None]:
    """Within it, CUDA_VISIBLE_DEVICES names the GPUs of these numbers, as torch counts them, alone;
    unchanged for none.

    A Ray that is started hands out the first GPUs it sees, and its processes keep the variable.
    """
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if numbers:
        visible = before.split(",") if before else None
        os.environ[name] = ",".join(
            visible[number] if visible else str(number) for number in numbers
        )
    try:
        yield
    finally:
        if numbers and before is None:
            del os.environ[name]
        elif before is not None:
            os.environ[name] = before


@contextmanager
def joined(address: str = "") -> Iterator[None]:
    """As `connected` for a cluster; where there is no address, nothing is started."""
    if not cluster_address(address):
        yield
        return
    with connected(address):
        yield


def capacity(address: str = "") -> Capacity | None:
    """The nodes of the cluster at `address` or RAY_ADDRESS, within `joined`; None where there is no
    address: this machine.
    """
    where = cluster_address(address)
    if not where:
        return None
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive)
    return Capacity(nodes, f"the cluster at {where}")


def use_token() -> None:
    """Turn token authentication on where a token is at hand; Ray does so by itself only for a Ray
    that it starts or finds.
    """
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )

    log = logging.getLogger("ray._private.authentication.authentication_token_setup")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        log.setLevel(level)


@contextmanager
def without_address_variables() -> Iterator[None]:
    """RAY_ADDRESS and RAY_API_SERVER_ADDRESS unset within: Ray prefers them to the address that it
    is given.
    """
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def is_source_tree() -> bool:
    """Whether this code is a checkout, whose packages travel to the nodes, rather than installed
    there as it is here.
    """
    return (PROJECT / "pyproject.toml").is_file()


@contextmanager
def staged_code() -> Iterator[Path]:
    """A temporary folder that holds the code a node needs and nothing else: Ray would take data and
    environments along.
    """
    with tempfile.TemporaryDirectory(prefix="rbnn-code-") as folder:
        for name in CODE:
            shutil.copytree(
                PROJECT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        yield Path(folder)


def _join(address: str) -> None:
    """Connect to a cluster as a driver, the code of a checkout travelling along; a submitted job
    brings its own already.
    """
    import ray

    if address != "auto":
        check_port(address, DEFAULT_PORT)
    use_token()
    env = {name: value for name, value in settings().items() if name not in _job_settings()}
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with ExitStack() as stack:
            stack.enter_context(without_address_variables())
            runtime_env: dict[str, Any] = {"env_vars": env}
            if JOB_ENVIRONMENT not in os.environ and is_source_tree():
                runtime_env["working_dir"] = str(stack.enter_context(staged_code()))
            ray.init(address=address, runtime_env=runtime_env, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise refused(address, error) from error


def _job_settings() -> set[str]:
    """The variables that the job's own runtime environment sets: Ray refuses to have
    one set twice.
    """
    given = json.loads(os.environ.get(JOB_ENVIRONMENT, "{}")).get("runtime_env") or {}
    return set(given.get("env_vars") or {})


def check_port(address: str, default_port: int) -> None:
    """RequestError, within CONNECT_TIMEOUT_S, where nothing listens at HOST or HOST:PORT: Ray
    itself tries for minutes.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = parts.port or default_port
        socket.create_connection((parts.hostname or "localhost", port), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise refused(address, getattr(error, "strerror", None) or error) from None


def refused(address: str, reason: object) -> RequestError:
    """The one line that says why a cluster cannot be used, and what to do."""
    text = one_line(reason)
    remedy = "check that it runs and that the address is right"
    if (
        "uthentication" in text or "oken" in text or "Failed to connect" in text
    ):  # what Ray says of a port that is open
        text, remedy = "it refuses this machine's token", TOKEN_REMEDY
    if "404" in text:
        text, remedy = (
            "what answers there takes no jobs",
            "give the address of Ray's dashboard, as rbnn serve prints it",
        )
    return RequestError(f"Ray cluster at {address} cannot be used: {text[:300]}; {remedy}")


def _python_path() -> str:
    """PYTHONPATH with this project first, so that workers on this machine import the
    same packages.
    """
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))


def own_ray_session(address: str) -> str:
    """The folder of the Ray that this process started, "" where it joined a cluster."""
    from ray._private.worker import global_worker

    return "" if cluster_address(address) else str(global_worker.node.get_session_dir_path())


def lost_of_own_ray() -> str:
    """Which daemon of the Ray that this process started has ended; "" while all run, and for a
    cluster that it joined.
    """
    from ray._private.worker import global_worker

    daemons = global_worker.node.all_processes if global_worker.node else {}
    ended = (
        name
        for name in DAEMONS
        for info in daemons.get(name, [])
        if info.process.poll() is not None
    )
    return next(ended, "")
