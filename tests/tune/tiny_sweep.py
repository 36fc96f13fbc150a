"""A sweep whose trials compute nothing, in a process of its own, with accidents where they are
asked for.

python tests/tune/tiny_sweep.py FOLDER NAME: begins the sweep FOLDER/sweep.yaml, or goes on with it
where NAME is there already. FOLDER/NAME-accidents.json lists accidents [number, epoch, moment,
victim]: when trial `number` reaches `epoch` (0-based) at that moment (before, checkpoint, journal,
report), the victim (trial, sweep, raylet, gcs) is killed with SIGKILL, once. Where a trial has
several workers, `worker` is the last of them, `leader` the one that writes, `trial` the process
that drives them. Others are not killed: `stop` asks for the end as `rbnn stop` does, `look` notes
the status in FOLDER/look.json; `int`, `term` and `hup` are signals to the whole group, as a
terminal sends them; `reader` is who reads the output; `full` is the disk until the next session, as
every fsync has it; `optuna` and `mlflow` are databases that another program locks for LOCKED_S;
`nap` is Ctrl-Z, and `fg` after NAP_S; `stop-gcs` and `stop-raylet` are killed LATER_S after `stop`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from typing import Any


def score(values: dict[str, Any], epoch: int) -> float:
    """A made-up val/top1: best near lr 0.1, rising with the epochs."""
    distance = abs(math.log10(values["lr"] / 0.1))
    return 90 - 20 * distance - 40 / (epoch + 2) + values["seed"] % 7 / 10


LOCKED_S = 7  # longer than SQLite waits where nobody told it how long
NAP_S, LATER_S = 5, 1
GROUP = {"int": signal.SIGINT, "term": signal.SIGTERM, "hup": signal.SIGHUP}
PASSING = ("look", "reader", "full", "optuna", "mlflow", "nap")  # the trial goes on
STOPPED = {"stop": "", "stop-gcs": "gcs", "stop-raylet": "raylet"}
VICTIMS = ("trial", "leader", "sweep", "raylet", "gcs", *STOPPED, *GROUP, *PASSING)


def accident(
    sweep: Path, number: int, epoch: int, moment: str, among: tuple[str, ...] = VICTIMS
) -> None:
    """Kill whom the list of accidents names for this moment, and do not return where that ends this
    process as well.
    """
    folder = sweep.parents[1]
    file = folder / f"{sweep.name}-accidents.json"
    for victim in among:
        planned = [number, epoch, moment, victim]
        done = folder / f"{sweep.name}-accident-{number}-{epoch}-{moment}-{victim}"
        if not file.is_file() or planned not in json.loads(file.read_text()) or done.exists():
            continue
        done.touch()
        if victim in PASSING:
            pass_by(sweep, victim)
            continue
        if victim in GROUP:
            os.killpg(os.getpgid(victims(sweep, "sweep", number)[0]), GROUP[victim])
        for pid in victims(sweep, victim, number):
            os.kill(pid, signal.SIGKILL)
        if victim in STOPPED:
            (sweep / "stop").touch()
            for pid in victims(sweep, STOPPED[victim], number):
                helper("kills", pid, LATER_S)
        while True:
            signal.pause()  # who ends this process is on its way


def victims(sweep: Path, name: str, number: int) -> list[int]:
    """The process ids that an accident kills."""
    from tune.cluster.daemons import ray_processes

    if not name or name in STOPPED or name in GROUP:
        return []
    record = json.loads((sweep / "sweep.json").read_text())
    if name == "sweep":
        return [record["process"]["pid"]]
    if name == "trial":
        return [int((sweep / f"driver-{number}").read_text())]
    if name in ("worker", "leader"):
        return [os.getpid()]
    return [pid for pid, program in ray_processes(record["ray"]) if program.startswith(name)]


def pass_by(sweep: Path, name: str) -> None:
    """An accident that leaves the trial's process alone."""
    folder = sweep.parents[1]
    if name == "look":
        look(sweep)
    elif name == "reader":
        os.kill(int((folder / "reader").read_text()), signal.SIGKILL)
    elif name == "full":
        (folder / "full").touch()
    elif name == "nap":
        group = os.getpgid(victims(sweep, "sweep", 0)[0])
        helper("naps", group, NAP_S)
    else:
        holder = helper("locks", (sweep if name == "optuna" else folder) / f"{name}.db", LOCKED_S)
        assert holder.stdout and holder.stdout.readline()


def helper(kind: str, what: object, seconds: float) -> subprocess.Popen[bytes]:
    """One of tests/tune/processes.py, which outlives this process."""
    command = [sys.executable, "-m", "tests.tune.processes", kind, str(what), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


def on_small_disk(folder: Path) -> None:
    """In this process the disk is full while FOLDER/full is there."""
    synced = os.fsync

    def fsync(descriptor: int) -> None:
        if (folder / "full").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def read_by_another(folder: Path) -> None:
    """Let what this process says go through another one, as through `less`, to where it goes."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    (folder / "reader").write_text(str(reader.pid))
    assert reader.stdin
    for number in (1, 2):
        os.dup2(reader.stdin.fileno(), number)
    reader.stdin.close()
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115


def look(sweep: Path) -> None:
    """Note what `rbnn status --json` says now."""
    from tune.sweep.folder import SweepFolder
    from tune.sweep.summary import look_at

    standing = look_at(SweepFolder(sweep))
    (sweep.parents[1] / "look.json").write_text(json.dumps(standing.to_dict()))


def metrics_of(values: dict[str, Any], epoch: int) -> dict[str, Any]:
    """What an epoch reports."""
    top1 = score(values, epoch)
    scores = {"val/top1": top1, "val/loss": 100 - top1, "time/epoch_s": 0.001}
    return {"epoch": epoch, **scores, "digest": f"{epoch:016x}"}


def save(directory: Path, values: dict[str, Any], metrics: dict[str, Any]) -> None:
    """The checkpoints of an epoch."""
    from rbnn import checkpoint as ckpt
    from rbnn.engine import BEST, LAST

    state = ckpt.Checkpoint({}, values, metrics["epoch"] + 1, metrics=metrics)
    for name in (BEST, LAST):
        ckpt.save(directory / name, state)


def train(trial: Any, journal: Any, tell: Callable[[dict[str, Any]], None]) -> None:
    """What stands for `train_trial`: its files and reports, in their order, and no training."""
    sweep, number = trial.directory.parents[1], int(trial.directory.name)
    for epoch in range(journal.last_epoch + 1, trial.recipe.epochs):
        accident(sweep, number, epoch, "before")
        metrics = metrics_of(trial.recipe.to_dict(), epoch)
        save(trial.directory, trial.recipe.to_dict(), metrics)
        accident(sweep, number, epoch, "checkpoint")
        journal.append(metrics)
        accident(sweep, number, epoch, "journal")
        tell(metrics)
        accident(sweep, number, epoch, "report")


def rank(sweep: Path, number: int) -> Callable[..., None]:
    """What stands for `train_rank`: ranks in step, the first one writing; no training."""

    def tiny(config: dict[str, Any]) -> None:
        import ray.train
        import torch.distributed as dist

        from rbnn import checkpoint as ckpt
        from rbnn.distributed import World
        from tune.run.journal import Journal
        from tune.run.workers import worker_directory

        leads = World.current().leads
        recipe, directory, resume = worker_directory(config)
        state = ckpt.load(resume) if resume and leads else None
        shared = [(state.epoch, state.metrics) if state else (0, {})]
        dist.broadcast_object_list(shared, 0)
        done, last = shared[0]
        journal = Journal(directory)
        for epoch in range(max(done - 1, 0), recipe.epochs):
            among = VICTIMS if leads else ("worker",)
            dist.barrier()
            accident(sweep, number, epoch, "before", among)
            metrics = last if epoch < done else metrics_of(recipe.to_dict(), epoch)
            if leads and epoch >= done:
                save(directory, recipe.to_dict(), metrics)
            accident(sweep, number, epoch, "checkpoint", among)
            if leads:
                journal.append(metrics)
            accident(sweep, number, epoch, "journal", among)
            ray.train.report(metrics)
            accident(sweep, number, epoch, "report", among)

    return tiny


def trial(config: dict[str, Any], **given: Any) -> None:
    """Ray Tune's trainable: `run_trial` with its training replaced."""
    from tune.run import workers
    from tune.sweep.trial import run_trial, train_trial

    sweep, number = Path(given["sweep_directory"]), config["number"]
    (sweep / f"driver-{number}").write_text(str(os.getpid()))
    on_small_disk(sweep.parents[1])
    several = given["base"]["train_workers"] > 1
    if several:
        workers.train_rank = rank(sweep, number)
    run_trial(config, **given, train=train_trial if several else train)


def main(folder: Path, name: str) -> int:
    """Begin, or go on, as the command `rbnn` does."""
    from tune.cli import __main__ as cli
    from tune.cli import sweeps
    from tune.cli.sweep import Sweep

    os.chdir(folder)
    (folder / "full").unlink(missing_ok=True)
    on_small_disk(folder)
    planned = folder / f"{name}-accidents.json"
    if planned.is_file() and "reader" in planned.read_text():
        read_by_another(folder)
    sweeps.run_sweep = partial(sweeps.run_sweep, trainable=trial)
    Sweep.resume = partialmethod(Sweep.resume, trainable=trial)  # type: ignore[assignment]
    begun = (folder / "result" / name / "sweep.json").is_file()
    sys.argv[1:] = ["resume", name] if begun else ["sweep", "sweep.yaml", "--name", name]
    return cli.command()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
