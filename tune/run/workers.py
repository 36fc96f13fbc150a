"""Several training processes as one run: Ray Train starts them, each runs `rbnn.engine.fit` on its
shard.

The worker function is the same wherever it runs: alone in a trial's actor (`train_alone`), or as a
rank of a TorchTrainer. A run's folder is its memory: a worker that finds last.ckpt there goes on
from it, which is how a run survives a worker's death.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.checkpoint import load
from rbnn.engine import LAST, Progress, Report, fit
from rbnn.errors import RequestError, RunFailed
from rbnn.hardware import device_of, gpu_ids, num_cores
from rbnn.recipe import Recipe
from tune.run.failure import cause_of, failure_causes, lasting_error
from tune.run.journal import Journal
from tune.run.remote import fetch, sending

MAX_WORKER_FAILURES = 2
# Of a core, that each worker leaves to its trial's driver: whole cores for all would never be
# placed.
DRIVER_SHARE = 0.02


def worker_config(
    recipe: Recipe, directory: Path, storage: str = "", events: Any = None
) -> dict[str, Any]:
    """What travels to a worker, paths in full: Ray gives its workers folders of their own.

    storage: the object store's address of this run's checkpoints, or "". events: a Ray queue that
    hears of the workers (see `train_with_workers`), or None.
    """
    recipe = recipe.replace(data_path=str(Path(recipe.data_path).absolute()))
    where = {"directory": str(directory.resolve()), "storage": storage}
    return {"recipe": recipe.to_dict(), **where, "events": events}


def worker_directory(config: dict[str, Any]) -> tuple[Recipe, Path, Path | None]:
    """(recipe, folder, checkpoint to continue from or None) of a worker's configuration."""
    recipe, directory = Recipe(**config["recipe"]), Path(config["directory"])
    resume = Path(recipe.resume) if recipe.resume else None
    return recipe, directory, directory / LAST if (directory / LAST).is_file() else resume


def train_alone(config: dict[str, Any], report: Report) -> None:
    """Train a one-worker recipe in this process; `config` as `worker_config` makes it."""
    from rbnn.data import open_loaders

    recipe, directory, resume = worker_directory(config)
    send, device = sending(config["storage"], directory, report), device_of(recipe)
    loaders = open_loaders(recipe, device)
    fit(recipe, loaders, send, device=device, directory=directory, resume=resume)


def train_rank(config: dict[str, Any]) -> None:
    """One rank of a TorchTrainer, in a Ray Train worker: its shard of the data, its reports."""
    import ray.train
    import ray.train.torch

    from rbnn.data import open_loaders
    from rbnn.distributed import World

    world = World.current()
    device = ray.train.torch.get_device()

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if world.leads:
            Journal(directory).append(metrics)
        ray.train.report(metrics)

    def tell(**event: Any) -> None:
        if config["events"] is not None:
            config["events"].put(event)

    def progress(epoch: int, step: int, num_steps: int) -> None:
        if world.leads:
            tell(kind="progress", where=(epoch, step, num_steps))

    fetch(config["storage"], Path(config["directory"]))
    recipe, directory, resume = worker_directory(config)
    state = load(resume) if resume and world.leads else None
    where = (state.epoch, state.step) if state else None
    tell(kind="worker", rank=world.rank, pid=os.getpid(), where=where)
    send = sending(config["storage"] if world.leads else "", directory, report)
    loaders = open_loaders(recipe, device, world)
    fit(recipe, loaders, send, device=device, directory=directory, resume=resume, progress=progress)


def torch_trainer(
    recipe: Recipe,
    directory: Path,
    callbacks: list[Any],
    storage: Path,
    name: str,
    *,
    address: str = "",
    resources: dict[str, float] | None = None,
    events: Any = None,
) -> Any:
    """A TorchTrainer of `recipe.train_workers` ranks; gloo on CPUs, nccl on GPUs.

    address: where the checkpoints go when not to `directory` alone. resources: of one worker; None
    as this machine allows. A rank that dies is replaced, up to MAX_WORKER_FAILURES times, and all
    ranks go on from the run's last checkpoint; an error that would come again ends the run at once.
    """
    import ray.train
    import ray.train.torch

    num_workers = recipe.train_workers
    if resources is None:
        cpus = max(1, min(recipe.threads, num_cores() // num_workers)) - DRIVER_SHARE
        resources = {"CPU": cpus} | ({"GPU": 1.0} if gpu_ids(recipe) else {})
    scaling = ray.train.ScalingConfig(
        num_workers=num_workers, use_gpu="GPU" in resources, resources_per_worker=resources
    )
    running = ray.train.RunConfig(
        name=name,
        storage_path=str(storage.resolve()),
        callbacks=[*callbacks, _worker_events(events)],
        failure_config=ray.train.FailureConfig(max_failures=MAX_WORKER_FAILURES),
    )
    config = worker_config(recipe, directory, address, events)
    return ray.train.torch.TorchTrainer(
        train_rank, train_loop_config=config, scaling_config=scaling, run_config=running
    )


def train_with_workers(
    recipe: Recipe,
    directory: Path,
    report: Callable[[dict[str, Any]], None],
    progress: Progress | None = None,
) -> None:
    """Train a recipe of several workers on Ray and call `report(metrics)` in this process, epoch by
    epoch; a line says which worker died and where the others go on.

    Raises RunFailed with the cause when the workers fail more often than Ray Train may replace
    them, and what a worker raised where it would raise it again.
    """
    from ray.util.queue import Empty, Queue

    from tune.cluster.ray import connected

    failure: list[Exception] = []
    log = WorkerLog(recipe, report, progress)
    with connected(gpus=gpu_ids(recipe)):
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = torch_trainer(recipe, directory, [], directory / "ray", "train", events=queue)

        def run() -> None:
            try:
                trainer.fit()
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() or not queue.empty():
            try:
                event = queue.get(timeout=0.2)
            except Empty:
                continue
            log.hear(**event)
    for error in failure:
        lasting = getattr(error, "controller_failure", None)
        if isinstance(lasting, (RequestError, RunFailed)):
            raise lasting
        raise RunFailed(cause_of(error)) from error


class WorkerLog:
    """Passes on workers' epochs and progress; says which one died and where the rest go on."""

    def __init__(
        self, recipe: Recipe, report: Callable[[dict[str, Any]], None], progress: Progress | None
    ) -> None:
        self.size = recipe.train_workers
        self.report = report
        self.progress = progress
        self.pids: dict[int, int] = {}
        self.has_failed = False

    def hear(self, kind: str, **event: Any) -> None:
        """One event, as `train_rank` and `_worker_events` make them."""
        if kind == "epoch":
            self.report(event["metrics"])
        elif kind == "progress" and self.progress:
            self.progress(*event["where"])
        elif kind == "worker":
            self.pids[event["rank"]] = event["pid"]
            if event["rank"] == 0 and self.has_failed:
                self.has_failed = False
                epoch, step = event["where"] or (0, 0)
                where = f"epoch {epoch + 1}" + (f" after step {step}" if step else "")
                print(f"{self.size} workers go on from the last checkpoint: {where}", flush=True)
        elif kind == "failure":
            self.has_failed = True
            for rank, cause in event["causes"].items():
                worker = f"worker {rank + 1} of {self.size}"
                print(f"{worker} (process {self.pids.get(rank, '?')}) {cause}", flush=True)


def _worker_events(queue: Any) -> Any:
    """A Ray Train callback, run in the controller: it puts rank 0's metrics and the workers'
    failures into the queue, if any, and ends a run whose workers raised a lasting error.
    """
    from ray.train import UserCallback

    class WorkerEvents(UserCallback):
        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            if queue is not None:
                queue.put({"kind": "epoch", "metrics": metrics[0]})

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            if lasting := lasting_error(worker_exceptions):
                raise lasting
            if queue is not None:
                queue.put({"kind": "failure", "causes": failure_causes(worker_exceptions)})

    return WorkerEvents()


def name_own_ray() -> None:
    """Make Ray Train's helpers ask the Ray that they run in, not the latest one of the machine: the
    places of a stopped trial's workers would stay taken, and the next trial wait for ever (seen
    with Ray 2.60 beside a `ray start --head`).
    """
    import ray
    from ray.train.v2._internal import constants

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
