"""Saved views of MLflow's pages: links that hold exactly a sweep."""

from __future__ import annotations

import colorsys
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.tune.made_runs import made_run, recorded_run
from tune.tracking.mirror import Mirror
from tune.tracking.view import GREEN, MAX_OPTIONS, ORANGE, TAG, colour_of, view_link, view_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ID = "ab" * 16


def test_the_link_of_a_view_is_encoded_and_has_no_filter_that_would_override_it() -> None:
    link = view_link("http://127.0.0.1:5000/", "7", ID)
    assert link.startswith("http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learn")
    query = parse_qs(urlsplit(urlsplit(link).fragment).query, strict_parsing=True)
    assert query["viewStateShareKey"] == [ID]
    assert query["compareRunsMode"] == ["CHART"] and not {"searchFilter", "orderBy"} & set(query)
    assert "compareRunsMode" not in view_link("http://127.0.0.1:5000/", "7", ID, charts=False)


def test_a_view_fits_an_experiment_tag_whatever_is_searched() -> None:
    options = [f"an_option_of_a_recipe_{number}" for number in range(MAX_OPTIONS)]
    assert len(json.dumps(view_state(ID, options))) < 5000


def test_the_saved_view_holds_exactly_the_trials_and_the_searched_options(
    tmp_path: Path, new_store: Callable[[Path], str]
) -> None:
    """Of two sweeps of one name, too."""
    mirror = Mirror.open(new_store(tmp_path))
    params = {"space/lr": "log 0.01 to 1", "space/momentum": "fixed 0.9"}
    params["space/warm_up"] = "boolean"
    shown: set[str] = set()
    for _ in range(2):
        sweep = made_run(tmp_path, kind="sweep", name='it\'s "it"', params=params)
        tags = {"rbnn.sweep": sweep.info.name, "rbnn.sweep_id": sweep.info.id}
        shown = {
            recorded_run(mirror, sweep.directory, kind="trial", parent=sweep.info.id, tags=tags)
            for _ in range(2)
        }
        sweep.end("finished")
        mirror.sync(sweep.directory)
    recorded_run(mirror, tmp_path)
    experiment = mirror.client.get_experiment_by_name("rbnn")
    view = json.loads(experiment.tags[TAG + sweep.info.id])
    found = mirror.reader.search(view["searchFilter"])
    assert {run.info.run_id for run in found} == shown and len(found) == 2
    assert view["selectedColumns"][:3] == ["metrics.`val/top1`", "params.`lr`", "params.`warm_up`"]
    assert {*view["selectedColumns"]} < {*view["columnWidths"]} == {*view["columnOrder"]}


def test_trials_side_by_side_have_colours_of_their_own() -> None:
    """Apart from one another and from the best's and the default's, in hue."""
    assert colour_of(0) == ORANGE
    colours = [colour_of(number) for number in range(1, 25)]
    assert len({*colours}) == len(colours)
    hues = [hue_of(colour) for colour in (ORANGE, GREEN, *colours[:7])]
    gaps = [abs((a - b + 180) % 360 - 180) for a, b in itertools.combinations(hues, 2)]
    assert min(gaps) > 15


def hue_of(colour: str) -> float:
    """In degrees."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 360 * colorsys.rgb_to_hls(red, green, blue)[0]
