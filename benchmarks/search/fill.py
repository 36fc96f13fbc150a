"""Fills the table, one training a process and one thread a training, with rbnn alone.

It may be killed at any moment and started again: finished trainings stay.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.__main__ import machine
from benchmarks.search.table import BASE, FOLDER, Job, jobs, read, settings
from rbnn.data import open_loaders, open_source, use_source
from rbnn.data.loading import stratified_holdout
from rbnn.data.source import Source, Split
from rbnn.engine import fit
from rbnn.errors import NonFiniteLoss
from rbnn.session import resolve

NUM_TRAIN, NUM_VAL = 5_000, 1_000  # of CIFAR-10's images, stratified


def fill(data: str, data_path: str, num_processes: int) -> None:
    """Train what the table of `data` lacks, and append a line for each training as it ends."""
    done = {(row["setting"], row["seed"], row["epochs"]) for row in read(data)}
    missing = [job for job in jobs(data) if job.key not in done]
    print(f"{data}: {len(done)} trainings done, {len(missing)} to do", flush=True)
    with (
        multiprocessing.get_context("spawn").Pool(
            num_processes, initializer=_open, initargs=(data, data_path)
        ) as pool,
        (FOLDER / f"{data}.jsonl").open("a") as file,
    ):
        file.write(_line({"data": data, "date": _now(), **machine()}))
        for row in pool.imap_unordered(_train, missing):
            file.write(_line(row))
            file.flush()
            print(_now(), row["setting"], row["seed"], row["epochs"], row["top1"][-1:], flush=True)


def _open(data: str, data_path: str) -> None:
    """Hold the images in this process, of CIFAR-10 a part."""
    source = open_source(data, data_path)
    if data != "digits":
        source = Source(
            _part(source.train, NUM_TRAIN),
            _part(source.val, NUM_VAL),
            source.classes,
            source.fingerprint,
        )
    use_source(data, BASE[data].data_path, source)


def _part(split: Split, num: int) -> Split:
    return split.subset(stratified_holdout(split.labels, num)[1])


def _train(job: Job) -> dict[str, Any]:
    values = settings(job.data)[job.setting]
    recipe = BASE[job.data].replace(
        **values, epochs=job.epochs, seed=job.seed, threads=1, gpus="none", compile="on"
    )
    cpu = torch.device("cpu")
    top1: list[float] = []
    with contextlib.suppress(NonFiniteLoss):  # the line then ends early, which says so
        fit(
            resolve(recipe),
            open_loaders(recipe, cpu),
            lambda metrics, _: top1.append(round(metrics["val/top1"], 2)),
            device=cpu,
        )
    return {
        "setting": job.setting,
        "seed": job.seed,
        "epochs": job.epochs,
        "values": values,
        "top1": top1,
    }


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
