"""One trial of a sweep: the sweep's recipe with the trial's values, run in the trial's actor or by
a TorchTrainer.

Ray Tune's view of an epoch is `epoch`, the number of epochs completed (from 1), and the metrics by
name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.data import dataset_spec, open_source, use_source
from rbnn.engine import LAST
from rbnn.recipe import Recipe
from tune.run.journal import Journal
from tune.run.remote import CheckpointStore

TEST_FILE = "test.json"
TRIALS, CONFIRM = "trials", "confirm"


def trial_recipe(base: dict[str, Any], overrides: dict[str, Any]) -> Recipe:
    """The full recipe of a trial."""
    return Recipe(**{**base, **overrides})


def trial_directory(home: str | Path, number: int, kind: str = TRIALS) -> Path:
    """The folder of a trial's checkpoints; its place is fixed by the trial's number, so that a
    retry finds them.
    """
    return Path(home) / kind / f"{number:04d}"


def trial_store(store: str, number: int, kind: str = TRIALS) -> str:
    """The address of a trial's checkpoints in an object store; "" where there is none."""
    return f"{store}/{kind}/{number:04d}" if store else ""


def for_tune(metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's metrics as Ray Tune hears them."""
    return {**metrics, "epoch": metrics["epoch"] + 1}


@dataclass(frozen=True)
class TrialRun:
    """A trial in its own process. address: of its checkpoints in an object store, or "". resources:
    of one of its workers.
    """

    recipe: Recipe
    directory: Path
    address: str
    resources: dict[str, float] | None
    tested: bool

    def journal(self) -> Journal:
        """What the trial has reported so far, on whichever node."""
        store = CheckpointStore(self.address) if self.address else None
        if store:
            store.fetch(self.directory)
        journal = Journal(self.directory)
        if journal.complete() and store:
            store.push(self.directory)
        return journal

    def train(self, journal: Journal, tell: Callable[[dict[str, Any]], None]) -> None:
        """Train to the last epoch, from last.ckpt where it is there; `tell` hears the epochs that
        the journal does not hold.
        """
        from tune.run.workers import torch_trainer, train_alone, worker_config

        if self.recipe.train_workers == 1:

            def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
                if metrics["epoch"] > journal.last_epoch:
                    journal.append(metrics)
                    tell(metrics)

            train_alone(worker_config(self.recipe, self.directory, self.address), report)
            return
        _name_own_ray()
        callbacks = [
            _tune_callback(journal.last_epoch, self.recipe.epochs - 1 if self.tested else -1)
        ]
        trainer = torch_trainer(
            self.recipe,
            self.directory,
            callbacks,
            self.directory / "ray",
            self.directory.name,
            address=self.address,
            resources=self.resources,
        )
        trainer.fit()


def shared_data(recipe: Recipe) -> Any:
    """A reference to the recipe's data set in Ray's object store, for `run_trial`; None where it is
    not held in memory.

    Several workers of a trial are processes of Ray Train, which read it themselves.
    """
    import ray

    in_memory = dataset_spec(recipe.dataset).in_memory and recipe.train_workers == 1
    return ray.put(open_source(recipe.dataset, recipe.data_path)) if in_memory else None


def run_trial(
    config: dict[str, Any],
    *,
    base: dict[str, Any],
    sweep_directory: str,
    store: str = "",
    worker_resources: dict[str, float] | None = None,
    data: Any = None,
) -> None:
    """Ray Tune's trainable: `config` is what `OptunaSearcher.suggest` gave.

    data: where Ray keeps the baseline's data set, which the sweep has read: all processes of a node
    use the same memory.

    number, overrides: which trial. epochs: how many the study knows already; what the trial's
    journal holds from there on is reported again, as a kill may have come before it was heard.
    test: the last epoch is reported with the test set's score.
    """
    import ray.tune

    if data is not None:
        use_source(base["dataset"], base["data_path"], ray.get(data))
    recipe = trial_recipe(base, config["overrides"])
    number, tested = config["number"], config.get("test", False)
    kind = CONFIRM if tested else TRIALS
    directory = trial_directory(sweep_directory, number, kind)
    run = TrialRun(recipe, directory, trial_store(store, number, kind), worker_resources, tested)
    last = recipe.epochs - 1

    def tell(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] < last or not tested:
            ray.tune.report(for_tune(metrics))

    journal = run.journal()
    for metrics in journal.rows[max(config["epochs"] - 1, 0) :]:
        tell(metrics)
    if journal.last_epoch < last:
        run.train(journal, tell)
    if tested:
        ray.tune.report(for_tune(run.journal().rows[last] | score_on_test_set(recipe, directory)))


def _name_own_ray() -> None:
    """Make Ray Train's helpers ask the Ray that they run in.

    The one that frees the places of a stopped trial's workers asks the latest Ray that was started
    on the machine, which may be another: the places then stay taken, and the next trial waits for
    ever (seen with Ray 2.60 beside a `ray start --head`).
    """
    import ray
    from ray.train.v2._internal import constants

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def _tune_callback(known: int, withheld: int) -> Any:
    """Forwards rank 0's epochs after `known` from Ray Train to Ray Tune, but not `withheld`; to be
    made inside the trial.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    class ReportEpochs(TuneReportCallback):
        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            if metrics[0]["epoch"] > known and metrics[0]["epoch"] != withheld:
                super().after_report(run_context, [for_tune(metrics[0])], checkpoint)

    return ReportEpochs()


def score_on_test_set(recipe: Recipe, directory: Path) -> dict[str, float]:
    """test/loss, test/top1, test/top5 of the run's last weights on the test set, evaluated once and
    kept in test.json.

    {} where validation images are not held out of a data set that has a test set beside.
    """
    file = directory / TEST_FILE
    if not dataset_spec(recipe.dataset).has_test_split or not recipe.val_fraction:
        return {}
    if not file.is_file():
        from rbnn.session import evaluate_file

        alone = recipe.replace(val_fraction=0.0, train_workers=1, evaluate="", resume="")
        metrics, _ = evaluate_file(alone, str(directory / LAST))
        partial = file.with_suffix(".partial")
        partial.write_text(
            json.dumps({name.replace("val/", "test/"): value for name, value in metrics.items()})
        )
        partial.replace(file)
    found: dict[str, float] = json.loads(file.read_text())
    return found
