"""Several training processes as one run: Ray Train starts them, each runs `rbnn.engine.fit` on its shard.

The worker function is the same wherever it runs: alone in a trial's actor (`train_alone`), or as a rank of a TorchTrainer.
A run's folder is its memory: a worker that finds last.ckpt there goes on from it, which is how a run survives a worker's death.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.engine import LAST, Report, fit
from rbnn.machine import device_of, gpu_ids, num_cores
from rbnn.recipe import Recipe

MAX_WORKER_FAILURES = 2
DRIVER_SHARE = 0.02  # of a core, that each worker leaves to its trial's driver: whole cores for all would never be placed


def worker_directory(config: dict[str, Any]) -> tuple[Recipe, Path, Path | None]:
    """(recipe, folder, checkpoint to continue from or None) of a worker's configuration."""
    directory = Path(config["directory"])
    recipe = Recipe(**config["recipe"])
    last = directory / LAST
    if last.is_file():
        return recipe, directory, last
    return recipe, directory, Path(recipe.resume) if recipe.resume else None


def train_alone(config: dict[str, Any], report: Report) -> None:
    """Train a one-worker recipe in this process; `config` as `worker_config` makes it."""
    from rbnn.data import open_loaders

    recipe, directory, resume = worker_directory(config)
    device = device_of(recipe)
    fit(recipe, open_loaders(recipe, device), report, device=device, directory=directory, resume=resume)


def train_rank(config: dict[str, Any]) -> None:
    """One rank of a TorchTrainer: its shard of the data, its report to Ray Train. Runs inside a Ray Train worker."""
    import ray.train
    import ray.train.torch

    from rbnn.data import open_loaders
    from rbnn.world import World

    recipe, directory, resume = worker_directory(config)
    device = ray.train.torch.get_device()
    world = World.current()
    if resume is not None and world.leads and resume.parent == directory:
        print(f"continuing from {resume}", flush=True)

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        ray.train.report(metrics)

    fit(recipe, open_loaders(recipe, device, world), report, device=device, directory=directory, resume=resume)


def worker_config(recipe: Recipe, directory: Path) -> dict[str, Any]:
    """What travels to a worker: plain values only."""
    return {"recipe": recipe.to_dict(), "directory": str(directory.resolve())}


def torch_trainer(recipe: Recipe, directory: Path, callbacks: list[Any], storage: Path, name: str) -> Any:
    """A TorchTrainer of `recipe.train_workers` ranks; gloo on CPUs, nccl on GPUs.

    A rank that dies is replaced, up to MAX_WORKER_FAILURES times, and all ranks go on from the run's last checkpoint.
    """
    import ray.train
    import ray.train.torch

    use_gpu = bool(gpu_ids(recipe))
    cpus = max(1, min(recipe.threads, num_cores() // recipe.train_workers)) - DRIVER_SHARE
    scaling = ray.train.ScalingConfig(
        num_workers=recipe.train_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus} | ({"GPU": 1} if use_gpu else {}),
    )
    return ray.train.torch.TorchTrainer(
        train_rank,
        train_loop_config=worker_config(recipe, directory),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            callbacks=callbacks,
            failure_config=ray.train.FailureConfig(max_failures=MAX_WORKER_FAILURES),
        ),
    )


def train_with_workers(recipe: Recipe, directory: Path, report: Callable[[dict[str, Any]], None]) -> None:
    """Train a recipe of several workers on Ray and call `report(metrics)` in this process, epoch by epoch.

    Raises RunFailed with the cause when the workers fail more often than Ray Train may replace them.
    """
    import threading

    from ray.util.queue import Empty, Queue

    from rbnn.errors import RunFailed
    from tune.cluster import connected

    failure: list[BaseException] = []
    with connected():
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = torch_trainer(recipe, directory, [_forwarding_callback(queue)], directory / "ray", "train")

        def run() -> None:
            try:
                trainer.fit()
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() or not queue.empty():
            try:
                report(queue.get(timeout=0.2))
            except Empty:
                continue
    if failure:
        raise RunFailed(cause_of(failure[0])) from failure[0]


def _forwarding_callback(queue: Any) -> Any:
    """A Ray Train callback that puts rank 0's metrics into a queue; it runs in Ray Train's controller."""
    from ray.train import UserCallback

    class ForwardMetrics(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            queue.put(metrics[0])

    return ForwardMetrics()


def cause_of(error: BaseException) -> str:
    """The last line of an error as Ray carries it: the worker's own exception, without Ray's wrapping."""
    workers = getattr(error, "worker_failures", None)
    if workers:
        return cause_of(next(iter(workers.values())))
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException) and inner is not error:
        return cause_of(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
