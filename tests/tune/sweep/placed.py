"""python placed.py FOLDER: which GPUs Ray gives a sweep's trials and their workers, as JSON.

Run by `test_placement.py` under the stand-in for CUDA, on six GPUs that it pretends, of which Ray
may hand out numbers 2 to 5. Ray finds GPUs with NVIDIA's own library, which is not there: it is
told how many it has.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from rbnn import hardware, session
from tune.cluster.ray import connected
from tune.sweep import placement
from tune.sweep.config import parse_sweep
from tune.sweep.plan import plan
from tune.sweep.stop import StopSignal
from tune.sweep.trial import run_trial
from tune.sweep.tuner import run, search_phase

GPUS, CORES = [2, 3, 4, 5], 16
CASES: dict[str, dict[str, Any]] = {
    "alone": {"concurrent": 2, "gpus_per_trial": 1},
    "shared": {"concurrent": 3, "gpus_per_trial": 0.5},
    "of-two-workers": {"concurrent": 1, "workers_per_trial": 2},
}


def told(folder: Path, name: str, **more: str) -> None:
    """Write down what this process may use."""
    from rbnn.hardware import device_of
    from rbnn.recipe import Recipe

    found = {"visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all"), **more}
    found.setdefault("device", str(device_of(Recipe())))
    (folder / f"{name}.json").write_text(json.dumps(found))


def wait_for(folder: Path, num: int) -> None:
    """Until so many processes run at once."""
    while len([*folder.glob("*.json")]) < num:
        time.sleep(0.05)


def trained(trial: Any, journal: Any, tell: Any, *, folder: Path, num: int) -> None:
    """What stands for a trial's training: it says where it is."""
    from tune.run import workers
    from tune.sweep.trial import train_trial

    if trial.recipe.train_workers > 1:
        workers.train_rank = partial(ranked, folder)
        train_trial(trial, journal, tell)
        return
    told(folder, f"trial {trial.directory.name}")
    wait_for(folder, num)
    journal.append({"epoch": 0, "val/top1": 50.0})
    tell(journal.rows[-1])


def ranked(folder: Path, config: dict[str, Any]) -> None:
    """What stands for `train_rank`."""
    import ray.train.torch
    from torch import distributed

    device, rank = str(ray.train.torch.get_device()), distributed.get_rank()
    told(folder, f"worker {rank}", device=device, backend=distributed.get_backend())
    ray.train.report({"epoch": 0, "val/top1": 50.0})


def main(folder: Path) -> None:
    for module in (hardware, session, placement):
        module.num_cores = lambda: CORES  # type: ignore[attr-defined]
    ray.init = partial(ray.init, num_gpus=len(GPUS), num_cpus=CORES)
    found: dict[str, Any] = {}
    with connected(gpus=GPUS):
        for case, keys in CASES.items():
            base, space = {"dataset": "digits", "epochs": 1}, {"lr": {"log": [0.01, 1]}}
            wanted = {"name": "placed", "base": base, "space": space, "scheduler": "none"}
            num, told_in = keys["concurrent"], folder / f"{case}-told"
            config = parse_sweep({**wanted, "trials": num, **keys}, folder)
            planned = plan(config, results_dir=str(folder), name=case)
            planned.directory.mkdir()
            told_in.mkdir()
            task = partial(run_trial, train=partial(trained, folder=told_in, num=num))
            phase = search_phase(planned, None, num)
            run(planned, phase, [], StopSignal(), trainable=task)
            said = sorted(told_in.glob("*.json"))
            found[case] = [json.loads(file.read_text()) for file in said]
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
