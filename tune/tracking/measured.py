"""What the documented recipes reached here: the best of the finished runs that the store holds of
them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from typing import Any

from rbnn.errors import RequestError
from rbnn.recipe import Recipe, load_recipe
from tune.tracking.address import sqlite_path, tracking_uri
from tune.tracking.reader import RunReader, quoted


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
    from tune.tracking.mirror import Tracker

    tracker = Tracker.open()
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
    runs = tracker.client.search_runs([tracker.experiment_id], filters, max_results=1000)
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


def unchanged(tracker: RunReader, run_id: str, recipe: Recipe) -> bool:
    """Whether the run's own recipe is `recipe` in all that makes another result."""
    try:
        own = tracker.recipe_of(run_id)
    except RequestError:  # of another version of this program, with options that are gone
        return False
    return own.to_dict("result") == recipe.to_dict("result")
