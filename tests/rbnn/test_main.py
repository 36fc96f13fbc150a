"""`python -m rbnn` trains, continues and evaluates in this process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbnn.__main__ import main
from rbnn.checkpoint import load
from rbnn.recipe import Recipe

pytestmark = pytest.mark.usefixtures("settings_put_back", "few_digits", "in_an_empty_folder")

TRAIN = "train --dataset digits --gpus none --epochs 2 -b 12 -bt 17 --Tmin 0.3 --Tmax 3 --threads 2"


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_trains_continues_and_evaluates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{TRAIN} --save run".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].endswith("checkpoints in result/run")
    state = load("result/run/last.ckpt")
    assert (state.epoch, Recipe(**state.recipe).batch_size) == (2, 12)
    assert main(["evaluate", "result/run", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert {"val/top1", "val/top5", "val/loss"} < metrics.keys()
    assert all(metrics[name] == state.metrics[name] for name in metrics if name.startswith("val/"))
    assert main(["evaluate", "result/run/best.ckpt"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "result/run/best.ckpt: 17 validation images"
    assert main(["train", "--resume", "result/run", "--gpus", "none"]) == 0
    assert main(["train", "--resume", "result/run", "--epochs", "3"]) == 2
    assert capsys.readouterr().err == (
        "rbnn: checkpoint 'result/run/last.ckpt' was written with epochs 2, this recipe has 3; "
        "continue with the same recipe\n"
    )


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (f"{TRAIN} --lr abc", 2, "lr is 'abc'; it must be a number"),
        (f"{TRAIN} --train_workers 2", 2, "train_workers is 2: several workers need Ray"),
        ("evaluate none.ckpt --dataset digits", 2, "checkpoint 'none.ckpt' does not exist"),
        (f"{TRAIN} --results_dir file/in", 2, "results_dir 'file/in' cannot be written: Not a d"),
        (f"{TRAIN} --lr 1e30", 1, "the training loss is not finite at epoch 0, step "),
    ],
)
def test_a_mistake_is_one_line(
    line: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main(line.split()) == status
    said = capsys.readouterr().err
    assert said.startswith(f"rbnn: {message}") and said.count("\n") == 1


def test_names_that_the_terminal_cannot_show_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main([*TRAIN.split(), "--epochs", "1", "--save", "größe"]) == 0
    printed.flush()
    assert rb"checkpoints in result/gr\xf6\xdfe" in printed.buffer.getvalue()


def test_a_locale_without_utf8_changes_no_file() -> None:
    Path("recipe.yaml").write_text("# größer\nmodle: resnet20_1w1a\n", "utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "rbnn", "train", "recipe.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | locale)
    assert done.returncode == 2 and "'modle'" in done.stderr
