"""`rbnn serve`, `rbnn logs`, and `rbnn status` and `stop` of a cluster: for a team."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.cli import Add, Argument, arg, flag

if TYPE_CHECKING:
    from tune.serve.head import Served
    from tune.sweep.config import SweepConfig


def add(command: Add) -> None:
    """The parsers of these commands."""
    names: dict[str, Any] = {"action": "append", "default": [], "show": "NAMES"}
    here = "address to listen on (default: this machine alone; 0.0.0.0: all)"
    database = "of MLflow, postgresql://USER@HOST/NAME (default: mlflow.db)"
    home = "where sweeps that are handed over run (default: here)"
    state = "folder of logs and secrets (default ~/.rbnn/serve)"
    options = [
        flag("--stop", "end what rbnn serve started"),
        arg("--host", default="127.0.0.1", help=here),
        arg("--database", default="", show="URL", help=database),
        arg("--users", **names, help="who may log in, e.g. ann,ben"),
        arg("--allowed_hosts", **names, help="further names of this machine"),
        arg("--home", default=".", show="DIR", help=home),
        _number("--mlflow_port", "of MLflow (default 5000, or the next free)", 5000),
        _number("--dashboard_port", "of Ray's jobs and pages (default 8265)", 8265),
        _number("--ray_port", "of Ray's head, for nodes (default 6379)", 6379),
        _number("--num_cpus", "cores that Ray may use (default: all)"),
        _number("--num_gpus", "GPUs that Ray may use (default: all)"),
        arg("--state", default="", show="DIR", help=state),
    ]
    text = "start Ray and MLflow on this machine for a team, until rbnn serve --stop"
    command("serve", serve, text, options)

    job = arg("job", show="ID", help="id that rbnn sweep --submit printed")
    text = "go on until the sweep ends; exit status 1 where it failed"
    follow = arg("-f", "--follow", action="store_true", help=text)
    text = "of the cluster, http://HEAD:8265 (default: RAY_ADDRESS)"
    address = arg("--address", default="", show="URL", help=text)
    text = "print what a sweep that was handed to a cluster has printed"
    command("logs", logs, text, [job, follow, address])


def _number(name: str, text: str, default: int | None = None) -> Argument:
    return arg(name, type=int, default=default, show="N", help=text)


def serve(args: argparse.Namespace) -> int:
    """Start the services, or stop them."""
    from tune.serve import head as services

    state = Path(args.state or services.DEFAULT_STATE).expanduser().absolute()
    if args.stop:
        ended = services.stop(state)
        said = f"nothing runs that {state} knows of"
        print(f"ended MLflow at {ended.mlflow} and Ray at {ended.jobs}" if ended else said)
        return 0
    from tune.serve.mlflow import TeamServer
    from tune.tracking.address import tracking_uri

    users, hosts = split_names(args.users), split_names(args.allowed_hosts)
    database = args.database or tracking_uri()
    server = TeamServer(database, args.host, args.mlflow_port, users, state, hosts)
    home = Path(args.home).expanduser().absolute()
    ports = args.ray_port, args.dashboard_port
    head = services.RayHead(args.host, *ports, home, args.num_cpus, args.num_gpus)
    served = services.start(state, server, head, lambda text: print(text, flush=True))
    print(described(served, state, services.token()))
    return 0


def split_names(given: list[str]) -> tuple[str, ...]:
    """The names in `--users ann,ben`, each once."""
    names = [name.strip() for name in ",".join(given).split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def described(served: Served, state: Path, token: str) -> str:
    """What runs, and what a member of the team types."""
    login, export = "", ""
    if served.users:
        login = (
            f"users      {', '.join(served.users)}, admin: the password of each is in "
            f"{state / 'passwords'}/NAME\n"
        )
        export = "  export MLFLOW_TRACKING_USERNAME=NAME MLFLOW_TRACKING_PASSWORD=...\n"
    stop = "" if state == Path("~/.rbnn/serve").expanduser() else f" --state {state}"
    return f"""
MLflow     {served.mlflow}   on {served.store}
Ray        {served.jobs}   (jobs and pages; sweeps run in {served.home})
nodes      ray start --address={served.join}   with the token below, and this code installed
token      {token}
{login}
on another machine, or in another terminal:
  export RAY_ADDRESS={served.jobs} MLFLOW_TRACKING_URI={served.mlflow}
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...        # the token above; not needed on this machine
{export}  rbnn sweep FILE --submit

end it with: rbnn serve --stop{stop}"""


def submit(file: SweepConfig, name: str, address: str, *, results_dir: str = "") -> int:
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


def status_line(status: dict[str, Any], address: str) -> str:
    """A job's status in one line."""
    ended = f", ended {status['ended']}" if status["ended"] else ""
    spent = f", {status['minutes']:g} min" if status["minutes"] is not None else ""
    return (
        f"job {status['job']} on {address}: {status['state'].lower()}, started "
        f"{status['started']}{ended}{spent}"
    )


def status_lines(status: dict[str, Any], address: str) -> list[str]:
    """A job's status with the end of its output, and how a sweep that was broken off goes on."""
    lines = [status_line(status, address)]
    if status["state"] == "FAILED" and status["message"]:
        lines.append(f"  {status['message']}")
    lines += [f"  | {line}" for line in status["output"]]
    if status["output"] and status["state"] in ("FAILED", "STOPPED"):
        lines.append(
            "  go on with it on the head, in RBNN_HOME (~/rbnn) there: rbnn resume "
            f"{status['job']} --address auto"
        )
    return lines


def print_status(job: str, address: str, as_json: bool) -> int:
    """`rbnn status` for a cluster: one job, or the list of all; exit status 0."""
    from tune.serve.jobs import Jobs

    jobs = Jobs.at(address)
    names = [job] if job else [found.submission_id for found in jobs.all()]
    found = [jobs.status(name) for name in names]
    if as_json:
        print(json.dumps(found[0] if job else found, indent=2))
    elif job:
        print(*status_lines(found[0], jobs.address), sep="\n")
    elif found:
        print(*(status_line(one, jobs.address) for one in found), sep="\n")
    else:
        print(f"no sweep was handed to {jobs.address} yet: rbnn sweep FILE --submit")
    return 0


def print_stopped(job: str, address: str) -> int:
    """`rbnn stop` for a cluster; exit status 0 where the job has ended."""
    from tune.serve.jobs import ENDED, Jobs

    jobs = Jobs.at(address)
    state = jobs.stop(job)
    print(f"job {job} on {jobs.address}: {state.lower()}")
    return 0 if state in ENDED else 1
