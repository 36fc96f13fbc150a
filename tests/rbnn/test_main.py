"""`python -m rbnn`: trains, continues and evaluates in this process, with neither Ray
nor MLflow.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rbnn import session
from rbnn.__main__ import main
from rbnn.checkpoint import load
from rbnn.data.loading import Loaders
from rbnn.recipe import Recipe

pytestmark = pytest.mark.usefixtures("settings_put_back", "only_few_digits")

TRAIN = (
    "train --dataset digits --gpus none --epochs 2 -b 32 -bt 37 --Tmin 0.3 --Tmax 3 --threads 2 "
    "--save run"
)


@pytest.fixture
def only_few_digits(
    few_digits: Callable[..., Loaders], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "open_loaders", lambda recipe, device: few_digits(recipe))
    monkeypatch.chdir(tmp_path)


def test_it_trains_and_evaluates_what_it_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].endswith("checkpoints in result/run")
    state = load("result/run/last.ckpt")
    assert (state.epoch, Recipe(**state.recipe).batch_size) == (2, 32)
    assert main(["evaluate", "result/run", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {name: metrics[name] for name in ("val/top1", "val/top5", "val/loss")} == {
        name: state.metrics[name] for name in ("val/top1", "val/top5", "val/loss")
    }
    assert main(["evaluate", "result/run/best.ckpt"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "result/run/best.ckpt: 37 validation images"


def test_it_continues_the_run_in_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN.split()) == 0
    assert main(["train", "--resume", "result/run", "--gpus", "none"]) == 0
    assert main(["train", "--resume", "result/run", "--epochs", "3"]) == 2
    assert capsys.readouterr().err == (
        "rbnn: checkpoint 'result/run/last.ckpt' was written with epochs 2, this recipe has 3; "
        "continue with the same recipe\n"
    )


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("train --dataset digits --lr abc", 2, "rbnn: lr is 'abc'; it must be a number"),
        (
            "train --dataset digits --gpus none --train_workers 2",
            2,
            "rbnn: train_workers is 2: several workers need Ray",
        ),
        ("evaluate none.ckpt --dataset digits", 2, "rbnn: checkpoint 'none.ckpt' does not exist"),
        (
            "train --dataset digits --gpus none --results_dir file/in",
            2,
            "rbnn: results_dir 'file/in' cannot be written: Not a d",
        ),
        (f"{TRAIN} --lr 1e30", 1, "rbnn: the training loss is not finite at epoch 0, step "),
    ],
)
def test_what_goes_wrong_is_one_line(
    line: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main(line.split()) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1


def test_names_that_the_terminal_cannot_show_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main([*TRAIN.split()[:-1], "größe"]) == 0
    printed.flush()
    assert rb"checkpoints in result/gr\xf6\xdfe" in printed.buffer.getvalue()


def test_a_locale_without_utf8_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# größer\nmodle: resnet20_1w1a\n", "utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "rbnn", "train", "recipe.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | locale,
    )
    assert done.returncode == 2 and "'modle'" in done.stderr


def test_training_in_a_fresh_process_loads_no_orchestration(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\nfrom rbnn import session\n"
        "from types import SimpleNamespace; from unittest.mock import MagicMock\n"
        "names = 'train/loss train/top1 lr t time/epoch_s time/images_per_s'\n"
        "metrics = dict.fromkeys(names.split(), 1) | {'epoch': 0, 'val/top1': 50}\n"
        "session.Session.train = lambda self, report, progress: (report(metrics, None), "
        "SimpleNamespace(best_top1=50, model=MagicMock()))[1]\n"
        "sys.argv = ['rbnn', 'train', '--dataset', 'digits', '--epochs', '1']\n"
        "try:\n    runpy.run_module('rbnn', run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, *{'ray', 'mlflow', 'optuna', 'tune'} & "
        "set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
    assert "best val/top1 50.00 %" in done.stdout
