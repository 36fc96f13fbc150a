"""MLflow's own pages with one more, `/rbnn/...`, that opens them as they are meant to be seen.

    /rbnn/EXPERIMENT/VIEW           a sweep's saved view (tune/tracking/view.py), with its charts
    /rbnn/EXPERIMENT/VIEW/table     the same as a table
    /rbnn/EXPERIMENT                all runs, the newest first

A shared view's own address shows it below a banner, and the assistant's panel comes up by itself in
a browser that never saw these pages. This page puts the view where MLflow keeps what a browser last
looked at, unless it is this sweep's already, and marks the panel as seen; then it goes there.

`uvicorn tune.tracking.pages:app` serves it, on the store that the environment names as MLflow's own
command reads it.
"""

from __future__ import annotations

import os

from mlflow.server import constants
from mlflow.server.fastapi_app import app
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tune.tracking.view import TAG, all_runs_link, view_link

# What `mlflow server` tells the processes that it starts.
os.environ |= {
    constants.BACKEND_STORE_URI_ENV_VAR: os.environ["MLFLOW_BACKEND_STORE_URI"],
    constants.REGISTRY_STORE_URI_ENV_VAR: os.environ["MLFLOW_BACKEND_STORE_URI"],
    constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
    constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
    constants.SERVE_ARTIFACTS_ENV_VAR: "true",
}
PAGE = """<!doctype html><title>rbnn</title><script>
const [experiment, view, table] = location.pathname.split('/rbnn/')[1].split('/');
const fallback = FALLBACK, place = PLACE;
const kept = `MLflowLocalStorage-1.1-ExperimentPage-["${experiment}"]-ReactComponentState`;
async function open() {
  localStorage['mlflow.assistant.fab.autoOpenedOnFirstLoad_v1'] = 'true';
  if (!view) return place;
  const answer = await fetch(`/ajax-api/2.0/mlflow/experiments/get?experiment_id=${experiment}`);
  const {tags} = (await answer.json()).experiment;
  const state = JSON.parse(tags.find(tag => tag.key === 'TAG' + view).value);
  const before = JSON.parse(localStorage[kept] || '{}');
  if (before.searchFilter !== state.searchFilter) localStorage[kept] = JSON.stringify(state);
  return place;
}
open().catch(() => fallback).then(address => location.replace(address));
</script>"""


def opening(request: Request) -> HTMLResponse:
    """The page that sets the browser up and goes on."""
    experiment, view = str(request.path_params["experiment"]), request.path_params.get("view", "")
    charts = not request.url.path.endswith("/table")
    fallback = view_link("", experiment, view, charts=charts) if view else ""
    place = fallback.partition("&viewStateShareKey")[0] or all_runs_link("", experiment)
    text = PAGE.replace("TAG", TAG)
    for name, address in {"FALLBACK": fallback or place, "PLACE": place}.items():
        text = text.replace(name, f"'{address}'")
    return HTMLResponse(text)


PATHS = ("/rbnn/{experiment:int}", "/rbnn/{experiment:int}/{view:str}")
for path in (*PATHS, f"{PATHS[1]}/table"):
    app.router.routes.insert(0, Route(path, opening))
