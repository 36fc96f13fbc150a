"""A view of a sweep's trials, saved on the MLflow experiment: which runs, in which order, with
which columns and charts.

MLflow's pages read it from the experiment's tag mlflow.sharedViewState.KEY when an address holds
viewStateShareKey=KEY; the state is what their "Share" button writes (MLflow 3.17). An address with
a filter of its own would override it.
"""

from __future__ import annotations

import colorsys
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rbnn.recipe import FIELDS, Recipe
from tune.run.folder import RunFolder
from tune.uris import is_server, without_login

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TAG = "mlflow.sharedViewState."
METRIC = "val/top1"
# Columns that are always there; five options fit beside them on a screen of 1,366 pixels.
FIRST_COLUMNS = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
PIXELS = dict(zip(FIRST_COLUMNS, (95, 125, 75), strict=True))
PIXELS |= {"params.`rotation_update`": 115, "tags.`rbnn.epochs`": 95, f"metrics.`{METRIC}`": 92}
USUAL_PIXELS = 84
MAX_OPTIONS = 8
COLOUR_TAG = "mlflow.runColor"
BASELINE, ORANGE, GREEN = 0, "#f59e0b", "#10b981"  # trial 0's colour; the best's, as in reports
GOLDEN_RATIO = 0.618034
USUAL = ("lr", "Tmin", "Tmax", "rotation_update", "warm_up")


def run_page(experiment_id: str, run_id: str) -> str:
    """The address of a run within MLflow's pages."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def view_link(base_url: str, experiment_id: str, sweep_id: str, *, charts: bool = True) -> str:
    """The address that opens a sweep's saved view: charts beside its runs, or the runs alone."""
    mode = {"compareRunsMode": "CHART"} if charts else {}
    query = urlencode({"workflowType": "machine_learning", **mode, "viewStateShareKey": sweep_id})
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def all_runs_link(base_url: str, experiment_id: str) -> str:
    """The address of the table of every run, the newest first."""
    # Said in full: the page else keeps the filter shown before.
    query = {"workflowType": "machine_learning", "compareRunsMode": "", "searchFilter": ""}
    query |= {"orderByKey": "attributes.start_time", "orderByAsc": "false"}
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def opening_link(base_url: str, *place: str) -> str:
    """The address within our own server (tune/tracking/pages.py) of an experiment's runs, or of a
    sweep's view: its experiment, its id, and `table` where no charts are wanted.
    """
    return "/".join([f"{base_url.rstrip('/')}/rbnn", *place])


def sweep_pages(uri: str, sweep: RunFolder) -> str:
    """Where a server shows a sweep's trials; "" for a database, whose pages nobody serves now."""
    experiment = sweep.mirrored.get("experiment")
    if not experiment or not is_server(uri):
        return ""
    return view_link(without_login(uri), experiment, sweep.info.id)


def sweep_id_of(run: Run) -> str:
    """The id of the sweep that a run is of; its own for runs of rbnn-tune 0.1."""
    return str(run.data.tags.get("rbnn.sweep_id", run.info.run_id))


def save_view(client: MlflowClient, experiment_id: str, sweep_id: str, options: list[str]) -> None:
    """Save the view of a sweep on the experiment; of many options, the first MAX_OPTIONS."""
    text = json.dumps(view_state(sweep_id, options[:MAX_OPTIONS]), separators=(",", ":"))
    client.set_experiment_tag(experiment_id, TAG + sweep_id, text)


def searched_in(params: dict[str, Any]) -> list[str]:
    """The options that a sweep searches, from its params; the usual ones where none is named."""
    given = {name: params.get(f"space/{name}", "fixed") for name in FIELDS}
    return [name for name, text in given.items() if not text.startswith("fixed")] or list(USUAL)


def view_state(sweep_id: str, options: list[str]) -> dict[str, Any]:
    """What the pages show: trials best first, some columns, three kinds of charts."""
    columns = [f"metrics.`{METRIC}`", *(f"params.`{name}`" for name in options)]
    columns += ["tags.`rbnn.epochs`", "tags.`rbnn.state`"]
    widths = {name: PIXELS.get(name, USUAL_PIXELS) for name in (*FIRST_COLUMNS, *columns)}
    best = {"type": "BAR", "runsCountToCompare": 20, "metricKey": METRIC, "displayName": METRIC}
    parallel = {"type": "PARALLEL", "runsCountToCompare": 100, "showAllRuns": True}
    parallel |= {"selectedParams": options, "selectedMetrics": [METRIC]}
    curves = {"curve-top1": _line(METRIC), "curve-loss": _line("train/loss")}
    charts: dict[str, dict[str, Any]] = {**curves, "best": best, "parallel": parallel}
    section = {"uuid": "rbnn-section", "name": "Sweep", "columns": 2, "cardHeight": 360}
    ours = {"deleted": False, "isGenerated": False}
    placed = ours | {"metricSectionId": section["uuid"]}
    return {
        "searchFilter": f"tags.`rbnn.sweep_id` = '{sweep_id}' and tags.`rbnn.kind` = 'trial'",
        "orderByKey": f"metrics.`{METRIC}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "columnOrder": [*widths],
        "columnWidths": widths,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [{"uuid": f"rbnn-{key}", **placed, **charts[key]} for key in charts],
        "compareRunSections": [{**section, **ours, "display": True, "isReordered": False}],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "groupBy": None,
    }


def _line(metric: str) -> dict[str, Any]:
    axis = {"xAxisKey": "step", "useGlobalXaxisKey": False, "xAxisScaleType": "linear"}
    shown = {"metricKey": metric, "selectedMetricKeys": [metric], "runsCountToCompare": 20}
    return {"type": "LINE", **shown, "lineSmoothness": 0, "scaleType": "linear", **axis}


def colour_of(number: int) -> str:
    """A trial's colour: far from its neighbours' in number, and from the two fixed ones."""
    if number == BASELINE:
        return ORANGE
    # Steps of the golden ratio through the hues, in degrees, but for oranges and greens.
    hue = 180 + number * GOLDEN_RATIO % 1 * 280
    hue = hue if hue < 380 else hue - 320
    light = (0.45, 0.6, 0.35)[number // 8 % 3]
    parts = colorsys.hls_to_rgb(hue % 360 / 360, light, 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


ABOUT = """Rotated binary neural networks: sweeps with their trials, trainings, replays.

`rbnn ui SWEEP` opens on a sweep's trials, best first; so does the link at the head of a
sweep's own run. The tag `rbnn.kind` tells runs apart (sweep, trial, confirm, train, replay),
`rbnn.sweep` names the sweep. Metrics are by epoch; checkpoints are in a run's
`checkpoints/` and among its logged models."""


def described(kind: str, recipe: Recipe, name: str) -> str:
    """What a run is, in Markdown, for its page."""
    bits = "1W32A" if recipe.a32 else "1W1A"
    warm_up = "with" if recipe.warm_up else "without"
    return (
        f"**{kind}** of `{name}`: {recipe.model} ({bits}) on {recipe.dataset}, {recipe.epochs} "
        f"epochs, seed {recipe.seed}.\n\n"
        f"lr {recipe.lr:.4g} {warm_up} warm-up, t from {recipe.Tmin:.4g} to {recipe.Tmax:.4g}, "
        f"rotations updated every {recipe.rotation_update} epoch(s). Its checkpoints are artifacts "
        'and logged models: `mlflow.pytorch.load_model("models:/MODEL_ID")`.'
    )
