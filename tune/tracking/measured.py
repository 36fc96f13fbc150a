"""What recorded runs measured of a recipe: the accuracy it reached here, the time of an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from rbnn.errors import RequestError
from rbnn.recipe import FIELDS, Recipe, load_recipe
from tune.tracking.address import may_hold
from tune.tracking.reader import RunReader, quoted

# Of what affects the result, what an epoch's time depends on.
SHAPE = (
    "dataset", "model", "batch_size", "batch_size_test", "train_images", "val_fraction", "a32",
    "precision",
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
    marks = ", ".join("?" * len(wanted))
    query = f"SELECT 1 FROM tags WHERE key = 'rbnn.recipe' AND value IN ({marks})"
    if not may_hold(query, wanted):
        return {}
    reader = RunReader.open()
    found = {name: best_run(reader, name) for name in wanted}
    return {name: figures for name, figures in found.items() if figures}


def best_run(reader: RunReader, name: str) -> dict[str, Any] | None:
    """The figures of one recipe; None where no run of it counts."""
    recipe, results = load_recipe(name), []
    finished = f"tags.`rbnn.recipe` = {quoted(name)} and attributes.status = 'FINISHED'"
    for run in reader.search(finished):
        run_id, kind = run.info.run_id, run.data.tags.get("rbnn.kind")
        if kind in ("train", "replay") and unchanged(reader, run_id, recipe):
            points = reader.points(run_id, "val/top1")
            results += [(top1, epoch, run_id) for epoch, top1 in points.items()]
    if not results:
        return None
    top1, epoch, run_id = max(results)
    top5, num_runs = reader.points(run_id, "val/top5"), len({result[2] for result in results})
    return {"top1": top1, "top5": top5.get(epoch), "run_id": run_id, "num_runs": num_runs}


def unchanged(reader: RunReader, run_id: str, recipe: Recipe) -> bool:
    """Whether the run's own recipe is `recipe` in all that makes another result."""
    try:
        own = reader.recipe_of(run_id)
    except RequestError:  # of another version of this program, with options that are gone
        return False
    return own.to_dict("result") == recipe.to_dict("result")


def recorded_epoch_s(recipe: Recipe, reader: RunReader) -> tuple[float, str] | None:
    """The median epoch (seconds, and where it is from) of the latest recorded run of the same
    network on the same data with the same batches and threads.
    """
    from tune.tracking.entities import param_text  # which loads torch

    wanted = {name: param_text(getattr(recipe, name)) for name in SAME}
    first = ("dataset", "model", "batch_size", "threads")
    conditions = [f"params.`{name}` = '{wanted[name]}'" for name in first]
    for run in reversed(reader.search(" and ".join(conditions))):
        params, run_id = run.data.params, run.info.run_id
        alike = all(params.get(name, text) == text for name, text in wanted.items())
        if alike and "time/epoch_s" in run.data.metrics:
            points = reader.points(run_id, "time/epoch_s")
            source = f"of run {run_id[:8]}, {len(points)} epochs recorded"
            return statistics.median(points.values()), source
    return None
