"""Takes the README's pictures: of a sweep that ran to its end, in MLflow's own pages and in its
report. Each page is shown as it opens in a browser that never saw it, on a screen of 1366 x 768.

    python -m docs.screenshots FOLDER SWEEP

FOLDER: the working directory of the sweep (it holds mlflow.db and result/). Needs chromium and
chromedriver.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from docs.browser import Browser, chromium_missing
from tune.serve.mlflow import free_port, mlflow_server
from tune.sweep.folder import SweepFolder, find_sweep
from tune.tracking.mirror import Mirror
from tune.tracking.view import opening_link

WIDTH, HEIGHT = 1366, 768
COLOURS = 256  # of a picture: enough for pages and charts, and small files
CURVES = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .js-line').length"


def take(folder: SweepFolder, target: Path) -> list[Path]:
    """table.png, charts.png, trial.png and report.png in `target`."""
    record = folder.record
    mirror = Mirror.open(record.store)
    mirror.sync(folder.directory)
    best, experiment = record.tags["rbnn.best_run"], folder.mirrored["experiment"]
    port = free_port("127.0.0.1", 5800)
    files = []

    def shoot(browser: Browser, name: str) -> None:
        browser.run("window.dispatchEvent(new Event('resize')); return true")
        browser.wait_for(
            "return document.readyState == 'complete' && document.fonts.status == 'loaded'",
            "the page",
        )
        browser.settle()
        browser.screenshot(target / name)
        shrink(target / name)
        files.append(target / name)

    with mlflow_server(record.store, port), Browser(WIDTH, HEIGHT) as browser:
        pages = f"http://127.0.0.1:{port}"
        browser.resize(WIDTH, HEIGHT)
        browser.open(opening_link(pages, experiment, record.id, "table"))
        browser.wait_for_text("rbnn.state")
        shoot(browser, "table.png")
        browser.open(opening_link(pages, experiment, record.id))
        browser.wait_for(CURVES, "the curves")
        shoot(browser, "charts.png")
        browser.open(
            f"{pages}/#/experiments/{experiment}/runs/{best}?workflowType=machine_learning"
        )
        browser.wait_for_text("Parameters")
        shoot(browser, "trial.png")
        browser.open((folder.directory / "report.html").resolve().as_uri())
        browser.wait_for(
            "return document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5",
            "the figures",
        )
        shoot(browser, "report.png")
        browser.resize(1366, 655)
        browser.run("document.getElementById('curves0').closest('section').scrollIntoView()")
        shoot(browser, "curves.png")
    return files


def shrink(file: Path) -> None:
    """Rewrite a PNG with a palette."""
    from PIL import Image

    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="working directory of the sweep")
    parser.add_argument("sweep", help="its name")
    args = parser.parse_args()
    if chromium_missing():
        print(chromium_missing(), file=sys.stderr)
        return 2
    target = Path(__file__).resolve().parent
    os.chdir(args.folder)
    for file in take(find_sweep(args.sweep), target):
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
