"""`rbnn serve` and `rbnn logs`: a Ray and an MLflow for a team, and the sweeps that were handed to
a cluster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tune.cli import Add

if TYPE_CHECKING:
    from tune.serve.head import Served
    from tune.sweep.config import SweepFile

# Ray's own ports are on the address that it finds for this machine, whatever --host says
EVERYWHERE = "0.0.0.0"
CLIENT_PORT = (
    9001  # of Ray's client server, which cannot be left out; Ray's workers have 10002 to 19999
)
# of what starts jobs; not Ray's own choice, which a second Ray here would take, and no job would
# ever start
AGENT_PORT = 9011


def add(command: Add) -> None:
    """The parsers of these commands."""
    service = command(
        "serve", serve, "start Ray and MLflow on this machine for a team, until rbnn serve --stop"
    )
    service.add_argument("--stop", action="store_true", help="end what rbnn serve started")
    service.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: this machine alone; 0.0.0.0: all)",
    )
    service.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="of MLflow, postgresql://USER@HOST/NAME (default: mlflow.db)",
    )
    service.add_argument(
        "--users", action="append", default=[], metavar="NAMES", help="who may log in, e.g. ann,ben"
    )
    service.add_argument(
        "--allowed-hosts",
        action="append",
        default=[],
        metavar="NAMES",
        help="further names of this machine",
    )
    service.add_argument(
        "--home",
        default=".",
        metavar="DIR",
        help="where sweeps that are handed over run (default: here)",
    )
    service.add_argument(
        "--mlflow-port",
        type=int,
        default=5000,
        metavar="N",
        help="of MLflow (default 5000, or the next free)",
    )
    service.add_argument(
        "--dashboard-port",
        type=int,
        default=8265,
        metavar="N",
        help="of Ray's jobs and pages (default 8265)",
    )
    service.add_argument(
        "--ray-port",
        type=int,
        default=6379,
        metavar="N",
        help="of Ray's head, for nodes (default 6379)",
    )
    service.add_argument(
        "--num-cpus", type=int, metavar="N", help="cores that Ray may use (default: all)"
    )
    service.add_argument(
        "--num-gpus", type=int, metavar="N", help="GPUs that Ray may use (default: all)"
    )
    service.add_argument(
        "--state",
        default="",
        metavar="DIR",
        help="folder of logs and secrets (default ~/.rbnn/serve)",
    )

    output = command("logs", logs, "print what a sweep that was handed to a cluster has printed")
    output.add_argument("job", metavar="ID", help="id that rbnn sweep --submit printed")
    output.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="go on until the sweep ends; exit status 1 where it failed",
    )
    output.add_argument(
        "--address",
        default="",
        metavar="URL",
        help="of the cluster, http://HEAD:8265 (default: RAY_ADDRESS)",
    )


def serve(args: argparse.Namespace) -> int:
    """Start the services, or stop them."""
    from tune.serve import head as services

    state = Path(args.state or services.DEFAULT_STATE).expanduser().absolute()
    if args.stop:
        ended = services.stop(state)
        print(
            f"ended MLflow at {ended.mlflow} and Ray at {ended.jobs}"
            if ended
            else f"nothing runs that {state} knows of"
        )
        return 0
    from tune.serve.mlflow import TeamServer, user_names
    from tune.serve.ui import free_port
    from tune.tracking.address import tracking_uri

    server = TeamServer(
        database=args.database or tracking_uri(),
        host=args.host,
        port=free_port(args.host, args.mlflow_port),
        users=user_names(args.users),
        state=state,
        names=user_names(args.allowed_hosts),
    )
    dashboard_port = free_port(args.host, args.dashboard_port)
    home = Path(args.home).expanduser().absolute()
    ray_port = free_port(EVERYWHERE, args.ray_port)
    others = free_port(EVERYWHERE, CLIENT_PORT), free_port(EVERYWHERE, AGENT_PORT)
    head = services.HeadOptions(
        args.host, ray_port, dashboard_port, *others, home, args.num_cpus, args.num_gpus
    )
    served = services.start(state, server, head, lambda text: print(text, flush=True))
    print(*described(served, state, services.token()), sep="\n")
    return 0


def described(served: Served, state: Path, token: str) -> list[str]:
    """What runs, and what a member of the team types."""
    login = []
    if served.users:
        login = [
            f"users      {', '.join(served.users)}, admin: the password of each is in "
            f"{state / 'passwords'}/NAME",
        ]
    stop = "" if state == Path("~/.rbnn/serve").expanduser() else f" --state {state}"
    return [
        "",
        f"MLflow     {served.mlflow}   on {served.store}",
        f"Ray        {served.jobs}   (jobs and pages; sweeps run in {served.home})",
        f"nodes      ray start --address={served.join}   with the token below, and this code "
        "installed",
        f"token      {token}",
        *login,
        "",
        "on another machine, or in another terminal:",
        f"  export RAY_ADDRESS={served.jobs} MLFLOW_TRACKING_URI={served.mlflow}",
        "  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...        # the token above; not needed on "
        "this machine",
        *(
            ["  export MLFLOW_TRACKING_USERNAME=NAME MLFLOW_TRACKING_PASSWORD=..."]
            if served.users
            else []
        ),
        "  rbnn sweep FILE --submit",
        "",
        f"end it with: rbnn serve --stop{stop}",
    ]


def submit(file: SweepFile, name: str, address: str, *, results_dir: str = "") -> int:
    """Hand a sweep over and say how to go on; `results_dir` is a folder on the cluster."""
    from tune.serve.jobs import Jobs

    jobs = Jobs.at(address)
    job = jobs.submit(file, name, ["--results_dir", results_dir] if results_dir else [])
    where = f" --address {jobs.address}" if address else ""
    print(job)
    print(f"how far it is:  rbnn status {job}{where}", file=sys.stderr)
    print(f"its output:     rbnn logs -f {job}{where}", file=sys.stderr)
    print(f"end it:         rbnn stop {job}{where}", file=sys.stderr)
    return 0


def logs(args: argparse.Namespace) -> int:
    """Print a job's output, on to its end if asked."""
    from tune.serve.jobs import Jobs

    jobs = Jobs.at(args.address)
    if not args.follow:
        print(jobs.logs(args.job), end="")
        return 0
    jobs.follow(args.job, lambda text: print(text, end="", flush=True))
    return 1 if jobs.state(args.job) == "FAILED" else 0
