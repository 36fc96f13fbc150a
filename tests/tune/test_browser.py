"""The pages that people see, in a real browser: MLflow's own on a store that a sweep filled, and
the sweep's report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.browser import Browser, chromium_missing
from tune.serve.mlflow import free_port, mlflow_server
from tune.tracking.reader import RunReader
from tune.tracking.view import opening_link, sweep_id_of

pytestmark = [
    pytest.mark.slow,
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
def reader(folder: Path) -> RunReader:
    return RunReader.open(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def pages(reader: RunReader) -> Iterator[str]:
    """The address of MLflow's pages."""
    port = free_port("127.0.0.1", 5700)
    with mlflow_server(reader.uri, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1366, 768) as opened:
        yield opened


def trials(reader: RunReader) -> list[Any]:
    return reader.children(reader.sweep_run("tiny").info.run_id)


def test_the_saved_view_shows_the_trials_best_first_with_their_curves(
    pages: str, browser: Browser, reader: RunReader
) -> None:
    parent = reader.sweep_run("tiny")
    where = (pages, parent.info.experiment_id, sweep_id_of(parent))
    browser.open(opening_link(*where))
    browser.wait_for_text("4 matching runs")
    number = "return document.querySelectorAll('.js-plotly-plot {}').length"
    assert browser.wait_for(number.format(".scatterlayer .js-line"), "a curve") >= 4
    browser.wait_for(number.format(".barlayer .point") + " == 4", "a bar for each trial")
    text = browser.text()
    assert "shared view" not in text
    fab = "return document.querySelector('.assistant-fab-label') !== null"
    assert browser.run(fab), "the assistant's panel is open where its button should be"
    ranked = sorted(trials(reader), key=lambda run: -run.data.metrics["val/top1"])
    places = [text.index(run.info.run_name) for run in ranked]
    assert places == sorted(places), "the best trial is not first"
    browser.open(opening_link(*where, "table"))
    for column in ("rbnn.state", "lr", "warm_up", "val/top1", "rbnn.epochs"):
        browser.wait_for_text(column)


def test_the_sweeps_own_run_says_what_it_is_and_shows_its_trials(
    pages: str, browser: Browser, reader: RunReader
) -> None:
    parent = reader.sweep_run("tiny")
    note = parent.data.tags["mlflow.note.content"]
    browser.open(f"{pages}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}")
    best_is_default = "the best of 4 trials"
    said = best_is_default if best_is_default in note else "against the documented default"
    browser.wait_for_text(said)
    shown = "return document.querySelector('a[href*=viewStateShareKey]')?.href"
    link = browser.wait_for(shown, "the link to the trials")
    assert f"viewStateShareKey={sweep_id_of(parent)}" in link
    for run in trials(reader):
        browser.wait_for_text(run.info.run_name)


def test_a_trials_checkpoints_are_found(pages: str, browser: Browser, reader: RunReader) -> None:
    run = trials(reader)[0].info
    page = f"{pages}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    browser.open(f"{page}/artifacts/checkpoints")
    browser.wait_for_text("last.ckpt")
    browser.wait_for_text("best.ckpt")


FIGURES = "[...document.querySelectorAll('.js-plotly-plot:not(#parallel0)')]"
TITLES = ("Optimisation history", "Learning curves", "Parallel coordinates", "Slices")


@contextmanager
def report(folder: Path, dark: bool = False) -> Iterator[Browser]:
    """A browser in which the report's figures are drawn."""
    with Browser(1280, 900, dark=dark) as opened:
        opened.open((folder / "result" / "tiny" / "report.html").as_uri())
        opened.wait_for(f"return {FIGURES}.length >= 5", "the figures")
        yield opened


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_draws_every_figure_inside_the_page(folder: Path, dark: bool) -> None:
    with report(folder, dark) as browser:
        for title in (*TITLES, "Parameter importance"):
            browser.wait_for_text(title)
        inside = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert browser.run(inside), "the page is wider than its window"
        colour = "getComputedStyle(document.body).color.match(/\\d+/g)"
        light = browser.run(f"return Number({colour}[0]) > 128")
        assert light is dark, "text and page have the same brightness"


def test_the_report_fits_a_telephone_and_its_legends_switch_what_they_name(folder: Path) -> None:
    with report(folder) as browser:
        narrow = "document.body.style.cssText = 'width: 366px; margin: 0; padding: 12px'"
        browser.run(f"{narrow}; window.dispatchEvent(new Event('resize')); return true")
        parts = "document.querySelectorAll('.js-plotly-plot:not(#parallel0) svg, .legend button')"
        fits = f"[...{parts}].every(part => part.getBoundingClientRect().right <= 391)"
        browser.wait_for(f"return {fits}", "figures and legends within 390 pixels")
        browser.run("document.querySelector('.legend button').click(); return true")
        hidden = "document.querySelector('#history0').data[0].visible === false"
        browser.wait_for(f"return {hidden}", "the first series hidden")
