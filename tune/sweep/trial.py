"""One trial of a sweep: the sweep's recipe with the trial's values, run in the trial's actor or by
a TorchTrainer.

Ray Tune's view of an epoch is `epoch`, the number of epochs completed (from 1), and the metrics by
name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbnn.data import dataset_spec, open_source, use_source
from rbnn.engine import LAST
from rbnn.files import write_atomically
from rbnn.recipe import Recipe
from tune.run.failure import naming_the_disk
from tune.run.journal import Journal
from tune.run.remote import CheckpointStore, store_of
from tune.sweep.folder import CONFIRM, TRIALS, trial_directory

TEST_FILE = "test.json"
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialSpec:
    """Which trial a process is to run: its number, the recipe values that it tries, and how many of
    its epochs the study knows already.

    test: whether it confirms a setting, whose last epoch comes with the test set's score; setting:
    the number of the search's trial that it confirms, -1 in the search itself.
    """

    number: int
    values: dict[str, Any]
    epochs_done: int = 0
    test: bool = False
    setting: int = -1

    @classmethod
    def of(cls, config: dict[str, Any]) -> TrialSpec:
        """The spec in the config of one of Ray Tune's trials."""
        return cls(**{spec.name: config[spec.name] for spec in dataclasses.fields(cls)})

    def to_config(self) -> dict[str, Any]:
        """As Ray Tune carries it."""
        return dataclasses.asdict(self)

    @property
    def kind(self) -> str:
        """The folder of its like: trials, or confirm."""
        return CONFIRM if self.test else TRIALS


def for_tune(metrics: dict[str, Any]) -> dict[str, Any]:
    """An epoch's metrics as Ray Tune hears them."""
    return {**metrics, "epoch": metrics["epoch"] + 1}


@dataclass(frozen=True)
class Trial:
    """A trial in its own process. address: of its checkpoints in an object store. resources: of one
    of its workers. tested: whether its last epoch is told apart, with the test set's score.
    """

    recipe: Recipe
    directory: Path
    address: str = ""
    resources: dict[str, float] | None = None
    tested: bool = False

    def journal(self) -> Journal:
        """What the trial has reported so far, on whichever node."""
        store = CheckpointStore(self.address) if self.address else None
        if store:
            store.fetch(self.directory)
        journal = Journal(self.directory)
        if journal.complete() and store:
            store.push(self.directory)
        return journal


def train_trial(trial: Trial, journal: Journal, tell: Tell) -> None:
    """Train to the last epoch, from last.ckpt where it is there; `tell` hears what is new."""
    from tune.run.workers import name_own_ray, torch_trainer, train_alone, worker_config

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if metrics["epoch"] > journal.last_epoch:
            journal.append(metrics)
            tell(metrics)

    recipe, directory, address = trial.recipe, trial.directory, trial.address
    if recipe.train_workers == 1:
        train_alone(worker_config(recipe, directory, address), report)
        return
    name_own_ray()
    place: dict[str, Any] = {"address": address, "resources": trial.resources}
    callbacks = [_tune_callback(trial, journal.last_epoch)]
    ray_folder = directory / "ray"
    torch_trainer(recipe, directory, callbacks, ray_folder, directory.name, **place).fit()


def shared_data(recipe: Recipe) -> Any:
    """The recipe's data set in Ray's object store, one memory for all processes of a node; None
    where it is not held in memory, or several workers of Ray Train read it themselves.
    """
    import ray

    in_memory = dataset_spec(recipe.dataset).in_memory and recipe.train_workers == 1
    return ray.put(open_source(recipe.dataset, recipe.data_path)) if in_memory else None


@naming_the_disk()
def run_trial(
    config: dict[str, Any],
    *,
    base: dict[str, Any],
    sweep_directory: str,
    store: str = "",
    worker_resources: dict[str, float] | None = None,
    data: Any = None,
    train: Callable[[Trial, Journal, Tell], None] = train_trial,
) -> None:
    """Ray Tune's trainable: `config` is a TrialSpec's, as the searcher gave it.

    data: `shared_data`. train: what trains; tests and benchmarks put something quicker in its
    place. What the trial's journal holds beyond `epochs_done` is reported again, as a kill may have
    come before it was heard.
    """
    import ray.tune

    if data is not None:
        use_source(base["dataset"], base["data_path"], ray.get(data))
    spec = TrialSpec.of(config)
    recipe = Recipe(**{**base, **spec.values})
    directory = trial_directory(sweep_directory, spec.number, spec.kind)
    address = store_of(store, spec.kind, directory.name)
    trial = Trial(recipe, directory, address, worker_resources, spec.test)
    last = recipe.epochs - 1

    def tell(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] < last or not spec.test:
            ray.tune.report(for_tune(metrics))

    journal = trial.journal()
    for metrics in journal.rows[max(spec.epochs_done - 1, 0) :]:
        tell(metrics)
    if journal.last_epoch < last:
        train(trial, journal, tell)
    if spec.test:
        scores = score_on_test_set(recipe, directory)
        ray.tune.report(for_tune(trial.journal().rows[last] | scores))


def _tune_callback(trial: Trial, known: int) -> Any:
    """Forwards rank 0's epochs after `known` from Ray Train, but the last of one that is tested."""
    from ray.tune.integration.ray_train import TuneReportCallback

    end = trial.recipe.epochs - trial.tested

    class ReportEpochs(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
            if known < metrics[0]["epoch"] < end:
                super().after_report(run_context, [for_tune(metrics[0])], checkpoint)

    return ReportEpochs()


def score_on_test_set(recipe: Recipe, directory: Path) -> dict[str, float]:
    """test/loss, test/top1, test/top5 of the run's last weights on the test set, evaluated once and
    kept; {} where no validation images are held out, or the data set has no test set beside.
    """
    if not dataset_spec(recipe.dataset).has_test_split or not recipe.val_fraction:
        return {}
    if not (directory / TEST_FILE).is_file():
        from rbnn.session import evaluate_file

        alone = recipe.replace(val_fraction=0.0, train_workers=1, evaluate="", resume="")
        metrics, _ = evaluate_file(alone, str(directory / LAST))
        scores = {name.replace("val/", "test/"): value for name, value in metrics.items()}
        write_scores(directory, scores)
    found: dict[str, float] = json.loads((directory / TEST_FILE).read_text("utf-8"))
    return found


def write_scores(directory: Path, scores: dict[str, float]) -> None:
    """Keep the test set's scores in the run's folder."""
    write_atomically(directory / TEST_FILE, json.dumps(scores))
