"""The pages that people see, in a real browser: MLflow's own on a store that a sweep filled, and
the sweep's report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.browser import Browser, chromium_missing
from tune.serve.mlflow import free_port, mlflow_server
from tune.tracking.mirror import Tracker
from tune.tracking.view import view_link

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.skipif(bool(chromium_missing()), reason=chromium_missing() or "none"),
]

ROOT = Path(__file__).resolve().parents[2]
FILE = {
    "description": "Does the learning rate matter?",
    "base": {"dataset": "digits", "epochs": 3, "lr": 0.02, "Tmin": 0.3, "Tmax": 3, "gpus": "none"},
    "space": {"lr": {"log": [0.001, 1]}, "warm_up": "boolean"},
    "trials": 4,
    "concurrent": 1,
    "seed": 3,
    "scheduler": "none",
    "confirm_seeds": 0,
}


@pytest.fixture(scope="module")
def folder(
    tiny_sweep: Callable[[Path, str], tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where a sweep ran to its end; its trials compute nothing."""
    place = tmp_path_factory.mktemp("swept")
    (place / "sweep.yaml").write_text(yaml.safe_dump(FILE))
    status, output = tiny_sweep(place, "tiny")
    assert status == 0, output
    return place


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Tracker:
    return Tracker.open(uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def pages(tracker: Tracker) -> Iterator[str]:
    """The address of MLflow's pages."""
    port = free_port("127.0.0.1", 5700)
    with mlflow_server(tracker.uri, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1500, 1000) as opened:
        yield opened


def trials(tracker: Tracker) -> list[Any]:
    return tracker.children(tracker.sweep_run("tiny").info.run_id)


def test_the_saved_view_shows_the_trials_best_first_with_their_curves(
    pages: str, browser: Browser, tracker: Tracker
) -> None:
    browser.open(view_link(pages, tracker.experiment_id, "tiny"))
    browser.wait_for_text("4 matching runs")
    drawn = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .js-line').length"
    assert browser.wait_for(drawn, "a curve") >= 4
    browser.wait_for(
        "return document.querySelectorAll('.js-plotly-plot .barlayer .point').length == 4",
        "a bar for each trial",
    )
    text = browser.text()
    ranked = sorted(trials(tracker), key=lambda run: -run.data.metrics["val/top1"])
    places = [text.index(run.info.run_name) for run in ranked]
    assert places == sorted(places), "the best trial is not first"
    browser.open(view_link(pages, tracker.experiment_id, "tiny", charts=False))
    browser.wait_for_text("rbnn.state")
    for column in ("lr", "warm_up", "val/top1", "rbnn.epochs"):
        browser.wait_for_text(column)


def test_the_sweeps_own_run_says_what_it_is_and_shows_its_trials(
    pages: str, browser: Browser, tracker: Tracker
) -> None:
    parent = tracker.sweep_run("tiny").info.run_id
    browser.open(f"{pages}/#/experiments/{tracker.experiment_id}/runs/{parent}")
    browser.wait_for_text(
        "against the documented default"
        if "best of 4" not in _note(tracker)
        else "the best of 4 trials"
    )
    link = browser.wait_for(
        "return document.querySelector('a[href*=viewStateShareKey]')?.href",
        "the link to the trials",
    )
    assert "viewStateShareKey=tiny" in link
    browser.wait_for_text("trial 3 of tiny")


def _note(tracker: Tracker) -> str:
    return str(tracker.sweep_run("tiny").data.tags["mlflow.note.content"])


def test_a_trials_checkpoints_are_found(pages: str, browser: Browser, tracker: Tracker) -> None:
    run_id = trials(tracker)[0].info.run_id
    browser.open(
        f"{pages}/#/experiments/{tracker.experiment_id}/runs/{run_id}/artifacts/checkpoints"
    )
    browser.wait_for_text("last.ckpt")
    browser.wait_for_text("best.ckpt")


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_draws_every_figure_inside_the_page(folder: Path, dark: bool) -> None:
    with Browser(1280, 900, dark=dark) as browser:
        browser.open((folder / "result" / "tiny" / "report.html").as_uri())
        browser.wait_for(
            "return document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5",
            "the figures",
        )
        for title in (
            "Optimisation history",
            "Learning curves",
            "Parallel coordinates",
            "Parameter importance",
            "Slices",
        ):
            browser.wait_for_text(title)
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), (
            "the page is wider than its window"
        )
        wide = (
            "return [...document.querySelectorAll('.js-plotly-plot')].every(p => "
            "p.getBoundingClientRect().width > 800)"
        )
        assert browser.run(wide)
        light = browser.run(
            "const c = getComputedStyle(document.body).color.match(/\\d+/g); return Number(c[0]) "
            "> 128"
        )
        assert light is dark, "text and page have the same brightness"
