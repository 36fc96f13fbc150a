"""Saved views of MLflow's pages: links that hold exactly a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from rbnn.errors import RequestError
from tune.tracking.mirror import Tracker
from tune.tracking.view import (
    MAX_OPTIONS,
    TAG,
    save_view,
    searched_options,
    view_key,
    view_link,
    view_state,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def test_the_link_of_a_view_is_encoded_and_has_no_filter_that_would_override_it() -> None:
    link = view_link("http://127.0.0.1:5000/", "7", "a & b #1 100%")
    assert link.startswith("http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learn")
    query = parse_qs(urlsplit(urlsplit(link).fragment).query, strict_parsing=True)
    assert query["viewStateShareKey"] == [view_key("a & b #1 100%")] == ["a---b--1-100-"]
    assert query["compareRunsMode"] == ["CHART"] and not {"searchFilter", "orderBy"} & set(query)
    assert "compareRunsMode" not in view_link("http://127.0.0.1:5000/", "7", "a", charts=False)


def test_a_view_fits_an_experiment_tag_whatever_is_searched() -> None:
    options = [f"an_option_of_a_recipe_{number}" for number in range(MAX_OPTIONS)]
    assert len(json.dumps(view_state("a-sweep-of-some-name-20261123-141612", options))) < 5000


def test_a_name_with_both_quotation_marks_is_refused() -> None:
    with pytest.raises(RequestError, match="both kinds of quotation marks"):
        view_state('it\'s "it"', ["lr"])


def test_the_saved_view_holds_exactly_the_trials_and_the_searched_options(tmp_path: Path) -> None:
    tracker = Tracker.open(uri=f"sqlite:///{tmp_path}/mlflow.db")
    name = "first & best"
    parent = tracker.start_run("sweep", name, recipe=None)
    trials = {
        tracker.start_run("trial", number, recipe=None, parent=parent, tags={"rbnn.sweep": name})
        for number in ("0", "1")
    }
    tracker.start_run("train", "beside", recipe=None)
    space = {"lr": {"log": [0.01, 1]}, "momentum": {"fixed": 0.9}, "warm_up": "boolean"}
    tracker.log_dict(parent, {"space": space}, "sweep.yaml")
    save_view(tracker, name, searched_options(tracker, tracker.sweep_run(name)))
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    view = json.loads(tags[TAG + view_key(name)])
    found = tracker.client.search_runs([tracker.experiment_id], view["searchFilter"])
    assert {run.info.run_id for run in found} == trials and len(found) == 2
    assert view["selectedColumns"][:3] == ["params.`lr`", "params.`warm_up`", "metrics.`val/top1`"]
