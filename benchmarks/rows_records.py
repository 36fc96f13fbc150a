"""What is written while a run goes on: the checkpoint of every epoch, and its metrics in MLflow."""

from __future__ import annotations

from functools import partial
from itertools import count

import torch

from benchmarks.measure import Benchmark, Row, Setting, alternate, compared
from benchmarks.networks import images_and_labels, networks, training_step
from rbnn import checkpoint as ckpt
from rbnn.recipe import Recipe

PLAIN_SAVE = "torch.save of the same content, no digest, no fsync"
METRIC_BY_METRIC = "MlflowClient.log_metric, one call each"
NUM_METRICS = 12
NUM_EPOCHS = 100
THEIR_EPOCHS = 2  # of the baseline by round, scaled to all: it takes a quarter of a second for each


def checkpoint_rows(setting: Setting, network: str) -> list[Row]:
    """`rbnn.checkpoint.save` of a network with its optimiser's momentum."""
    device = torch.device("cpu")
    model = networks(network, device, ("rbnn",))["rbnn"]
    images, labels = images_and_labels(8, device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    training_step(model, images, labels)()
    optimizer.step()
    state = ckpt.Checkpoint(
        model.state_dict(),
        Recipe().to_dict(),
        1,
        optimizer.state_dict(),
        ckpt.rng_state(device),
        {"top1": 10.0, "epoch": 0.0},
    )
    content = ckpt.asdict_shallow(state)
    ours, theirs = setting.folder / "ours.ckpt", setting.folder / "theirs.ckpt"
    seconds = alternate(
        {"ours": partial(ckpt.save, ours, state), "theirs": partial(torch.save, content, theirs)},
        setting.rounds,
        repeats=3,
    )
    note = f"{ours.stat().st_size / 2**20:.1f} MiB"
    return [
        compared(
            f"checkpoint write {network}", PLAIN_SAVE, seconds["ours"], seconds["theirs"], note=note
        )
    ]


def mlflow_rows(setting: Setting) -> list[Row]:
    """A run's folder, synced after each of 100 epochs of 12 metrics and a digest, in SQLite; a
    share of them per round.
    """
    from tune.run.folder import RunFolder, RunInfo
    from tune.run.journal import Journal
    from tune.tracking.mirror import Mirror

    mirror = Mirror.open(f"sqlite:///{setting.folder}/mlflow.db")
    metrics = {f"group/metric_{index}": index / 7 for index in range(NUM_METRICS)}
    run = RunFolder.begin(setting.folder / "run", RunInfo(name="ours"), Recipe())
    journal = Journal(run.directory)
    mirror.sync(run.directory)
    theirs_id = mirror.client.create_run(mirror.reader.experiment_ids[0]).info.run_id
    our_epochs, their_epochs = count(), count()
    epochs_per_round = NUM_EPOCHS // setting.rounds

    def log_epochs() -> None:
        for _ in range(epochs_per_round):
            epoch = next(our_epochs)
            journal.append(metrics | {"digest": f"{epoch:016x}", "epoch": epoch})
            mirror.sync(run.directory)

    def log_metrics() -> None:
        for _ in range(THEIR_EPOCHS):
            epoch = next(their_epochs)
            for name, value in metrics.items():
                mirror.client.log_metric(theirs_id, name, value, step=epoch)

    seconds = alternate({"ours": log_epochs, "theirs": log_metrics}, setting.rounds)
    ours = [value * NUM_EPOCHS / epochs_per_round for value in seconds["ours"]]
    theirs = [value * NUM_EPOCHS / THEIR_EPOCHS for value in seconds["theirs"]]
    name = f"MLflow, {NUM_EPOCHS} epochs of {NUM_METRICS} metrics"
    return [compared(name, METRIC_BY_METRIC, ours, theirs, note="seconds for all epochs")]


BENCHMARKS = [
    Benchmark(
        "checkpoint write resnet20", PLAIN_SAVE, partial(checkpoint_rows, network="resnet20_1w1a")
    ),
    Benchmark(
        "checkpoint write resnet18", PLAIN_SAVE, partial(checkpoint_rows, network="resnet18_1w1a")
    ),
    Benchmark("MLflow logging", METRIC_BY_METRIC, mlflow_rows, needs=("mlflow",)),
]
