"""One trial of a sweep: the sweep's recipe with the trial's values, run in the trial's actor or by a TorchTrainer.

Ray Tune's view of an epoch is `epoch`, the number of epochs completed (from 1), and the metrics by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbnn.recipe import Recipe


def trial_recipe(base: dict[str, Any], overrides: dict[str, Any]) -> Recipe:
    """The full recipe of a trial."""
    return Recipe(**{**base, **overrides})


def trial_directory(sweep_directory: str | Path, number: int) -> Path:
    """The folder of a trial's checkpoints; its place is fixed by the trial's number, so that a retry finds them."""
    return Path(sweep_directory) / "trials" / f"{number:04d}"


def for_tune(metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's metrics as Ray Tune hears them."""
    return {**metrics, "epoch": metrics["epoch"] + 1}


def run_trial(config: dict[str, Any], *, base: dict[str, Any], sweep_directory: str) -> None:
    """Ray Tune's trainable: `config` is what `OptunaSearcher.suggest` gave (number, overrides)."""
    import ray.tune

    from tune.trainer import torch_trainer, train_alone, worker_config

    recipe = trial_recipe(base, config["overrides"])
    directory = trial_directory(sweep_directory, config["number"])
    if recipe.train_workers == 1:
        train_alone(worker_config(recipe, directory), lambda metrics, checkpoint: ray.tune.report(for_tune(metrics)))
        return
    trainer = torch_trainer(recipe, directory, [_tune_callback()], directory / "ray", f"trial-{config['number']:04d}")
    trainer.fit()


def _tune_callback() -> Any:
    """Forwards rank 0's epochs from Ray Train to Ray Tune; to be made inside the trial."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class ReportEpochs(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            super().after_report(run_context, [for_tune(metrics[0])], checkpoint)

    return ReportEpochs()
