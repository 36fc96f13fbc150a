"""`import rbnn`, `import tune`: what a program and a notebook get."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

import tune
from rbnn.errors import RequestError
from rbnn.recipe import RECIPE_DIR
from tests.tune.made_runs import made_run
from tests.tune.report.test_report import TRIALS, sweep
from tune.cli.listeners import EventFiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NOTEBOOK = RECIPE_DIR / "first_steps.ipynb"
SMALLER = {"epochs=2": "epochs=1", "batch_size=32": "batch_size=16", "images=200": "images=32"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tune.Sweep:
    """A sweep that has ended, without having run."""
    return tune.open_sweep(sweep(tmp_path_factory.mktemp("swept") / "look-1", TRIALS).directory)


def test_the_notebook_runs(
    searched: tune.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fewer images, and with a sweep that has run; real ones are those of test_session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    asked: list[Any] = []

    def has_run(file: str, **settings: Any) -> tune.Sweep:
        asked.append((file, settings))
        return searched

    monkeypatch.setattr(tune, "run_sweep", has_run, raising=False)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            for ours, smaller in SMALLER.items():
                text = text.replace(ours, smaller)
            exec(compile(text, str(NOTEBOOK), "exec"), names)
    assert asked == [("quickstart", {"trials": 4})]
    assert len(names["done"].epochs) == 1 and names["done"].model.training is False
    assert names["again"].verdict.text == "identical to the bit over 1 epochs"
    assert "verdict: identical" in names["again"]._repr_html_()


def test_a_sweep_as_an_object(searched: tune.Sweep) -> None:
    trials = searched.trials
    assert trials.loc[5, ["state", "epochs", "val/top1", "lr"]].tolist() == ["complete", 4, 80, 0.2]
    assert trials.loc[4, "cause"] == "it broke" and trials.index.name == "trial"
    assert (searched.best.row.number, searched.best.recipe.lr) == (5, 0.2)
    assert "trial 5 reaches val/top1 80.00 %" in searched._repr_html_()
    assert searched.stop() == (True, "sweep look-1 has ended already: finished")
    with pytest.raises(RequestError, match=r"confirm_seeds is -1; it must be at least 0"):
        searched.confirm(-1)


@pytest.mark.parametrize("kind", ["history", "curves", "parallel", "importance"])
def test_its_figures_are_plotlys(kind: str, searched: tune.Sweep) -> None:
    figure = searched.figure(kind)
    assert figure.layout.title.text.startswith("look-1: ") and len(figure.data) > 0
    assert figure.to_json()


def test_an_unknown_figure_and_an_unknown_sweep_are_one_line(searched: tune.Sweep) -> None:
    with pytest.raises(RequestError, match="figure 'slice' is unknown; choose history, curves"):
        searched.figure("slice")
    with pytest.raises(RequestError, match="sweep 'nosuch' is not in"):
        tune.open_sweep("nosuch")


def test_the_imports_are_light_and_complete() -> None:
    code = (
        "import sys, rbnn, tune; assert not {'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules)"
        "; [getattr(each, name) for each in (rbnn, tune) for name in each.__all__]"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="module 'tune' has no attribute 'nosuch'"):
        tune.nosuch  # noqa: B018


def test_metrics_are_written_for_tensorboard(tmp_path: Path) -> None:
    run, listener = made_run(tmp_path), EventFiles()
    for epoch in (3, 4):  # of a run that goes on
        listener.epoch_ended(run, {"epoch": epoch, "val/top1": 10.0 * epoch, "digest": "ab"})
    listener.run_ended(run)
    (file,) = run.directory.glob("events.out.tfevents.*")
    found = [
        (value.tag, event.step, value.simple_value)
        for event in events(file.read_bytes())
        for value in event.summary.value
    ]
    assert found == [("val/top1", 3, 30.0), ("val/top1", 4, 40.0)]


def events(content: bytes) -> Iterator[Event]:
    """TensorBoard's records: length, checksum, event, checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
