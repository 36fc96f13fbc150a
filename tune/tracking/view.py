"""A view of a sweep's trials, saved on the MLflow experiment: which runs, in which order, with
which columns and charts.

MLflow's pages read it from the experiment's tag mlflow.sharedViewState.KEY when an address holds
viewStateShareKey=KEY; the state is what their "Share" button writes (MLflow 3.17). An address with
a filter of its own would override it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import yaml

from tune.tracking.reader import quoted

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tune.tracking.mirror import Tracker

TAG = "mlflow.sharedViewState."
METRIC = "val/top1"
MAX_OPTIONS = 8
USUAL = ("lr", "Tmin", "Tmax", "rotation_update", "warm_up")


def view_key(sweep: str) -> str:
    """The name under which a sweep's view is saved."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", sweep)


def view_link(base_url: str, experiment_id: str, sweep: str, *, charts: bool = True) -> str:
    """The address that opens a sweep's saved view: its charts beside the runs, or the table of runs
    alone.
    """
    mode = {"compareRunsMode": "CHART"} if charts else {}
    query = urlencode(
        {"workflowType": "machine_learning", **mode, "viewStateShareKey": view_key(sweep)}
    )
    return f"{base_url.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def save_view(tracker: Tracker, sweep: str, options: list[str]) -> None:
    """Save the view of a sweep on the experiment; of many options, the first MAX_OPTIONS."""
    text = json.dumps(view_state(sweep, options[:MAX_OPTIONS]), separators=(",", ":"))
    tracker.tag_experiment(TAG + view_key(sweep), text)


def searched_options(tracker: Tracker, parent: Run) -> list[str]:
    """The options that a sweep searched, from the sweep file on its run; the usual ones where there
    is none.
    """
    found = yaml.safe_load(tracker.text_of(parent.info.run_id, "sweep.yaml") or "{}").get(
        "space", {}
    )
    return [
        name for name, entry in found.items() if not (isinstance(entry, dict) and "fixed" in entry)
    ] or list(USUAL)


def view_state(sweep: str, options: list[str]) -> dict[str, Any]:
    """What the pages show: trials best first, their options, epochs and state as columns, and three
    kinds of charts.
    """
    columns = [
        *(f"params.`{name}`" for name in options),
        f"metrics.`{METRIC}`",
        "tags.`rbnn.epochs`",
        "tags.`rbnn.state`",
    ]
    section = "rbnn-section"
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    charts = [
        {"uuid": "rbnn-curve-top1", **common, **_line(METRIC)},
        {"uuid": "rbnn-curve-loss", **common, **_line("train/loss")},
        {
            "uuid": "rbnn-best",
            **common,
            "type": "BAR",
            "runsCountToCompare": 20,
            "metricKey": METRIC,
            "displayName": METRIC,
        },
        {
            "uuid": "rbnn-parallel",
            **common,
            "type": "PARALLEL",
            "runsCountToCompare": 100,
            "selectedParams": options,
            "selectedMetrics": [METRIC],
            "showAllRuns": True,
        },
    ]
    return {
        "searchFilter": f"tags.`rbnn.sweep` = {quoted(sweep)} and tags.`rbnn.kind` = 'trial'",
        "orderByKey": f"metrics.`{METRIC}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": section,
                "name": "Sweep",
                "columns": 2,
                "cardHeight": 360,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "groupBy": None,
    }


def _line(metric: str) -> dict[str, Any]:
    axis = {
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
    }
    return {
        "type": "LINE",
        "runsCountToCompare": 20,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        **axis,
    }
