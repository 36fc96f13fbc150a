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
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rbnn.errors import RequestError, RunFailed, one_line
from rbnn.threading_env import THREADING, set_threading
from tune.cluster.mps import served
from tune.cluster.resources import Capacity, Node
from tune.uris import no_answer

PROJECT = Path(__file__).resolve().parents[2]
CODE = ("rbnn", "tune", "experiments")  # what a node needs of a source tree
CONNECT_TIMEOUT_S = 5.0
LONGEST_FOLDER = 35  # of Ray's sessions, whose sockets' paths may have 107 characters
DEFAULT_PORT = 6379
JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job
TOKEN_REMEDY = (
    "copy the head's ~/.ray/auth_token to the same place here (file mode 600), or give its path "
    "in RAY_AUTH_TOKEN_PATH"
)
SETTINGS = {
    # glibc's arenas, of which it makes up to eight a core: each trial is a thread, and each arena
    # keeps what a trial freed (rbnn.hardware.keep_freed_memory). A process that had trained twenty
    # trials had grown to 2.4 GB on two cores; with two arenas to 1.25.
    "MALLOC_ARENA_MAX": "2",
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
# Of a Ray that is started here: its workers add this to the niceness that they inherit. With Ray's
# own 15 a trial gets 3 % of a core that an ordinary process is busy on.
NICENESS = ("RAY_worker_niceness", "0")
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def jobs_address(address: str = "") -> str:
    """`address`, else that of the ADDRESS_VARIABLES, where it is one that takes jobs; else ""."""
    named = [os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)]
    given = (address or "".join(named[:1])).strip().rstrip("/")
    return given if given.startswith(("http://", "https://")) else ""


def cluster_address(address: str = "") -> str:
    """`address`, else RAY_ADDRESS, checked to be one that a driver can join; "" for a local Ray."""
    given = (address or os.environ.get("RAY_ADDRESS", "")).strip()
    if given == "local":
        return ""
    if given.startswith(("http://", "https://", "ray://")):
        raise RequestError(
            f"address '{given}' is not one that a sweep here can join; hand the sweep over with "
            "--submit --address http://HEAD:8265, or run it on a node of the cluster with "
            "--address HEAD:6379 (or auto)"
        )
    return given


def settings() -> dict[str, str]:
    """SETTINGS and how threads wait, as they are once this process has those not chosen yet."""
    set_threading()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return {name: os.environ[name] for name in (*SETTINGS, *THREADING) if name in os.environ}


@contextmanager
def connected(
    address: str = "", gpus: Sequence[int] = (), dashboard: bool = False, mps: bool = False
) -> Iterator[None]:
    """Ray initialised within: joined at `address` or RAY_ADDRESS, else started here and shut down
    at the end. An initialised Ray is used as it is.

    gpus: numbers of the GPUs that a Ray started here may hand out; all of them where empty.
    dashboard: whether a Ray started here has one, ten processes more; Ray Train asks it for what a
    trial of several workers left when it was stopped.
    mps: whether its processes share GPUs through `tune.cluster.mps`.
    Raises RequestError, one line, for a cluster that does not answer or refuses.
    """
    env = settings()
    import ray

    if ray.is_initialized():
        yield
        return
    # a failed trial's traceback is in its error.txt, its cause is recorded
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    joining = cluster_address(address)
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if joining:
                _join(joining)
            else:
                path = [str(PROJECT), os.environ.get("PYTHONPATH", "")]  # the same packages there
                env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
                os.environ.setdefault(*NICENESS)
                if not _has_token():
                    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
                shared = stack.enter_context(served(mps))
                with _variables(_visible(gpus) | _short_folder() | shared), _own_group():
                    _start(include_dashboard=dashboard, runtime_env={"env_vars": env})
        stack.callback(ray.shutdown)
        yield


def _start(**given: Any) -> None:
    """Start a Ray here; RunFailed, one line, where its daemons are not up within Ray's 30 s."""
    import ray

    try:
        ray.init(address="local", **given, **QUIET)
    except Exception as error:  # a bare one, for that
        if isinstance(error, OSError) and error.errno:  # the disk's
            raise
        raise RunFailed(
            f"Ray does not start: {one_line(error)[:300]}; the machine may be too busy or short of "
            "memory: try again later (a sweep that is there: rbnn resume NAME)"
        ) from error


@contextmanager
def _own_group() -> Iterator[None]:
    """What Ray starts within is in process groups of its own, as a signal to this process's group
    (`timeout`, a closed terminal) is this process's to answer: without its raylet Ray Tune's end
    waits a minute for Ray, which then ends this process with nothing recorded.
    """
    from ray._private import services

    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


def _short_folder() -> dict[str, str]:
    """RAY_TMPDIR where Ray's sessions cannot be in TMPDIR, or no socket's path would fit."""
    given = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    fits = len(given) <= LONGEST_FOLDER and os.path.isdir(given) and os.access(given, os.W_OK)
    return {} if fits else {"RAY_TMPDIR": "/tmp"}


def _has_token() -> bool:
    """Whether Ray has a token, or needs none, or has a home to write one to."""
    wants_none = os.environ.get("RAY_AUTH_MODE", "token") != "token"
    if wants_none or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return True
    with suppress(OSError, RuntimeError):  # the latter: no home at all
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "auth_token").exists() or os.access(folder, os.W_OK)
    return False


def _visible(gpus: Sequence[int]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for these GPUs, as torch counts them: Ray hands out what it sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [seen.split(",")[number] if seen else str(number) for number in gpus]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)} if names else {}


@contextmanager
def _variables(changes: Mapping[str, str | None]) -> Iterator[None]:
    """These environment variables set within, or unset for None, and as they were afterwards."""
    before = {name: os.environ.pop(name, None) for name in changes}
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def joined(address: str = "") -> Iterator[None]:
    """As `connected` for a cluster; where there is no address, nothing is started."""
    if not cluster_address(address):
        yield
        return
    with connected(address):
        yield


def capacity(address: str = "") -> Capacity | None:
    """The nodes of the cluster, within `joined`; None where there is no address: this machine."""
    where = cluster_address(address)
    if not where:
        return None
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive)
    return Capacity(nodes, f"the cluster at {where}")


def use_token() -> None:
    """Turn token authentication on where a token is at hand, as Ray does for one that it starts."""
    from ray._private.authentication import authentication_token_setup as setup

    logging.getLogger(setup.__name__).setLevel(logging.ERROR)  # it says what it did
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def without_address_variables() -> AbstractContextManager[None]:
    """The ADDRESS_VARIABLES unset within: Ray prefers them to the address that it is given."""
    return _variables(dict.fromkeys(ADDRESS_VARIABLES))


def is_source_tree() -> bool:
    """Whether this code is a checkout, which travels to the nodes, rather than installed there."""
    return (PROJECT / "pyproject.toml").is_file()


@contextmanager
def staged_code() -> Iterator[Path]:
    """A temporary folder that holds of a checkout the code that a node needs and nothing else: Ray
    would take data and environments along. It is empty where this code is installed.
    """
    without = shutil.ignore_patterns("__pycache__")
    with tempfile.TemporaryDirectory(prefix="rbnn-code-") as folder:
        for name in CODE if is_source_tree() else ():
            shutil.copytree(PROJECT / name, Path(folder) / name, ignore=without)
        yield Path(folder)


def _join(address: str) -> None:
    """Connect to a cluster as a driver. The code of a checkout travels along; a job has its own."""
    import ray

    if address != "auto":
        check_port(address, DEFAULT_PORT)
    use_token()
    job = json.loads(os.environ.get(JOB_ENVIRONMENT, "{}")).get("runtime_env") or {}
    set_already = job.get("env_vars") or {}  # by the job's own: Ray refuses to have one set twice
    env = {name: value for name, value in settings().items() if name not in set_already}
    runtime_env: dict[str, Any] = {"env_vars": env}
    try:
        with without_address_variables(), ExitStack() as stack:
            if JOB_ENVIRONMENT not in os.environ and is_source_tree():
                runtime_env["working_dir"] = str(stack.enter_context(staged_code()))
            ray.init(address=address, runtime_env=runtime_env, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise refused(address, error) from error


def check_port(address: str, default_port: int) -> None:
    """RequestError, within seconds, where nothing listens at HOST[:PORT]: Ray tries for minutes."""
    uri = address if "://" in address else f"ray://{address}"
    if why := no_answer(uri, default_port, CONNECT_TIMEOUT_S):
        raise refused(address, why)


def refused(address: str, reason: object) -> RequestError:
    """The one line that says why a cluster cannot be used, and what to do."""
    text = one_line(reason)
    remedy = "check that it runs and that the address is right"
    # "Failed to connect" is what Ray says of a token, too, where the port is open
    if any(word in text for word in ("uthentication", "oken", "Failed to connect")):
        text, remedy = "it refuses this machine's token", TOKEN_REMEDY
    elif "404" in text:
        text = "what answers there takes no jobs"
        remedy = "give the address of Ray's dashboard, as rbnn serve prints it"
    return RequestError(f"Ray cluster at {address} cannot be used: {text[:300]}; {remedy}")
