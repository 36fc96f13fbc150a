"""What a sweep begins with: its folder and its budget, which may be extended later."""

from __future__ import annotations

import dataclasses
import time

import yaml

from rbnn.errors import RequestError
from rbnn.files import write_atomically
from tune.run.folder import new_id
from tune.sweep.folder import SWEEP_FILE, SweepFolder, SweepRecord, digest_of, private_mode
from tune.sweep.plan import SweepPlan, search_params
from tune.sweep.study import Study
from tune.uris import with_absolute_path


def create_folder(planned: SweepPlan, store: str) -> SweepFolder:
    """The new folder of a sweep, with all that going on with it needs."""
    config, recipe, where = planned.config, planned.recipe, planned.directory.parent
    try:
        planned.directory.mkdir(parents=True)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}; choose another --results_dir"
        raise RequestError(f"results_dir '{where}' {reason}") from None
    folder, sweep_id = SweepFolder(planned.directory), new_id()
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    mode = private_mode(config.storage, config.storage_path)
    write_atomically(planned.directory / SWEEP_FILE, text, mode=mode)
    folder.describe(recipe)
    sweeps = {"rbnn.sweep": planned.name, "rbnn.sweep_id": sweep_id, "rbnn.recipe": config.name}
    folder.write(
        SweepRecord(
            file=digest_of(planned.directory / SWEEP_FILE),
            id=sweep_id,
            kind="sweep",
            name=planned.name,
            parent=sweep_id,
            tags=sweeps,
            params=search_params(planned),
            description=config.description,
            data=dataclasses.asdict(planned.data),
            began=time.time(),
            store=store,
            storage=with_absolute_path(config.storage),
            recipe=recipe.to_dict(),
            concurrent=planned.concurrent,
            cpus=float(recipe.threads * recipe.train_workers),
            gpus=planned.gpus_of_trial,
            trials=config.trials,
            budget_s=config.time_budget_min * 60 if config.time_budget_min else None,
            confirm_seeds=config.confirm_seeds,
        )
    )
    return folder


def about(planned: SweepPlan) -> dict[str, str]:
    """A sweep in words, as attributes of its study."""
    recipe = planned.recipe
    network = f"{recipe.model} on {recipe.dataset}, {recipe.epochs} epochs"
    found = {"question": planned.config.description, "network": network}
    found["value"] = "val/top1 of the last epoch, percent; intermediate values are by epoch"
    found["trial 0"] = "the documented default"
    return found | {"go on with it": f"rbnn resume {planned.name}"}


def extend_budget(folder: SweepFolder, trials: int | None, hours: float | None) -> None:
    """Add trials to its budget, or hours from now; RequestError where neither can be."""
    if trials is None and hours is None:
        raise RequestError("extend adds nothing; give --trials N or --hours H")
    if trials is not None and trials < 1:
        raise RequestError(f"--trials is {trials}; it must be at least 1")
    if hours is not None and not 0 < hours < float("inf"):
        raise RequestError(f"--hours is {hours:g}; it must be above 0")
    record, config = folder.record, folder.unchanged_config
    study = Study.existing(folder.storage_url(record), record.name)
    begun = len(study.finished) if study else 0
    if config.sampler == "grid" and begun >= len(config.space.grid()):
        text = "has tried its whole grid; widen the space in a new sweep"
        raise RequestError(f"sweep '{record.name}' {text}")
    budget = None if trials is None else max(record.trials or 0, begun) + trials
    folder.update(trials=budget, budget_s=None if hours is None else folder.used_s + hours * 3600)
