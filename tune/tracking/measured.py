"""What the documented recipes reached here: the best of the finished runs that the store holds of
them.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
from collections.abc import Iterable
from typing import Any

from rbnn.errors import RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe
from tune.tracking.address import tracking_uri
from tune.tracking.reader import RunReader, quoted
from tune.uris import sqlite_path

# Of what affects the result, what an epoch's time depends on.
SHAPE = (
    "dataset", "model", "batch_size", "batch_size_test", "val_fraction", "a32", "precision"
)  # fmt: skip
# A seed takes no time, and `gpus` names one GPU of several that are alike.
SAME = SHAPE + tuple(
    name
    for name, spec in FIELDS.items()
    if spec.metadata["affects"] == "bits" and name not in ("seed", "gpus")
)


def measured_accuracies(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Recipe name -> top1, top5 (percent, of the best epoch of the best run), run_id, num_runs;
    only those that have run here.

    A run counts where it finished with the recipe unchanged in all that makes up its result:
    epochs, batch size, validation on the official images. Without a store nothing is opened. Raises
    RequestError where the store does not answer.
    """
    wanted = list(names)
    if not has_runs(wanted):
        return {}
    tracker = RunReader.open()
    found = {name: best_run(tracker, name) for name in wanted}
    return {name: figures for name, figures in found.items() if figures}


def has_runs(names: list[str]) -> bool:
    """Whether the store can hold runs of these recipes: a database file is asked without MLflow,
    whose import takes seconds.
    """
    path = sqlite_path(tracking_uri())
    if path is None:
        return bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if not path.is_file():
        return False
    query = (
        "SELECT 1 FROM tags WHERE key = 'rbnn.recipe' AND value IN "
        f"({', '.join('?' * len(names))}) LIMIT 1"
    )
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            return connection.execute(query, names).fetchone() is not None
        finally:
            connection.close()
    except sqlite3.Error:
        return True


def best_run(tracker: RunReader, name: str) -> dict[str, Any] | None:
    """The figures of one recipe; None where no run of it counts."""
    filters = f"tags.`rbnn.recipe` = {quoted(name)} and attributes.status = 'FINISHED'"
    runs = tracker.search(filters)
    results = []
    for run in runs:
        if run.data.tags.get("rbnn.kind") in ("train", "replay") and unchanged(
            tracker, run.info.run_id, load_recipe(name)
        ):
            points = {
                point.step: point.value
                for point in tracker.client.get_metric_history(run.info.run_id, "val/top1")
            }
            if points:
                step = max(points, key=lambda epoch: points[epoch])
                results.append((points[step], step, run.info.run_id))
    if not results:
        return None
    top1, step, run_id = max(results)
    top5 = {
        point.step: point.value for point in tracker.client.get_metric_history(run_id, "val/top5")
    }
    return {"top1": top1, "top5": top5.get(step), "run_id": run_id, "num_runs": len(results)}


def unchanged(reader: RunReader, run_id: str, recipe: Recipe) -> bool:
    """Whether the run's own recipe is `recipe` in all that makes another result."""
    try:
        own = reader.recipe_of(run_id)
    except RequestError:  # of another version of this program, with options that are gone
        return False
    return own.to_dict("result") == recipe.to_dict("result")


def recorded_epoch_s(recipe: Recipe, reader: RunReader) -> tuple[float, str] | None:
    """The median epoch of the latest recorded run of the same network on the same data with the
    same batches and threads.
    """
    values = recipe.to_dict()
    wanted = {
        name: str(values[name]).lower() if isinstance(values[name], bool) else str(values[name])
        for name in SAME
    }
    conditions = [
        f"params.`{name}` = '{wanted[name]}'"
        for name in ("dataset", "model", "batch_size", "threads")
    ]
    for run in reversed(reader.search(" and ".join(conditions))):
        alike = all(run.data.params.get(name, wanted[name]) == wanted[name] for name in SAME)
        if alike and "time/epoch_s" in run.data.metrics:
            points = reader.client.get_metric_history(run.info.run_id, "time/epoch_s")
            seconds = statistics.median(point.value for point in points)
            return seconds, f"of run {run.info.run_id[:8]}, {len(points)} epochs recorded"
    return None
