"""`python -m rbnn package`, `evaluate` of packages: a run's way, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rbnn import checkpoint
from rbnn.__main__ import main
from rbnn.packed import command
from rbnn.recipe import Recipe

pytestmark = [
    pytest.mark.usefixtures("settings_put_back"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(onnx|openvino)"),
]


@pytest.fixture
def file(trained: nn.Module, tmp_path: Path) -> Path:
    """A run's checkpoint."""
    path = tmp_path / "run" / "last.ckpt"
    recipe = Recipe(dataset="digits", threads=1, train_workers=1).to_dict()
    checkpoint.save(path, checkpoint.Checkpoint(trained.state_dict(), recipe, 3))
    return path


def test_a_checkpoint_is_packaged_and_evaluated_in_every_engine(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "package"
    assert main(["package", str(file.parent), "--out", str(out), "--no-latency"]) == 0
    assert "predictions on 397 validation images" in capsys.readouterr().out
    assert main(["evaluate", str(file), "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    for engine in ("torch", "onnx", "openvino"):
        given = ["--engine", engine, "--threads", "1", "--json"]
        assert main(["evaluate", str(out), *given]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["engine"] == engine
        assert found["val/top1"] == pytest.approx(wanted["val/top1"], abs=0.3)
        assert found["val/loss"] == pytest.approx(wanted["val/loss"], rel=0.02)


def test_no_data_are_needed_where_no_predictions_are_compared(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", "cifar10", "--data_path", "nowhere"]  # 10 classes, too
    out = ["--out", str(tmp_path / "package")]
    assert main(["package", str(file), *given, *out, "--no-latency"]) == 2
    assert main(["package", str(file), *given, *out, "--no-latency", "--images", "0"]) == 0
    assert "predictions" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("package none.ckpt --out p", "checkpoint 'none.ckpt' does not exist"),
        ("package FILE --out OTHER", "holds other files"),
        ("package FILE --out FILE/p", "cannot be written"),
        ("package FILE --out p --images -3", "--images is -3; it must be at least 0"),
        ("package FILE --out p --model vgg_small_1w1a", "is of another network"),
        ("evaluate FILE --engine onnx", "is no package; make one: rbnn package"),
        ("evaluate PACKAGE --model vgg_small_1w1a", "is of model resnet20_1w1a; leave --model out"),
        ("evaluate PACKAGE --recipe cifar10_resnet20_1w1a", "leave --recipe out"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: str,
    message: str,
    file: Path,
    package: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(file.parents[1])
    named = {"FILE": str(file), "OTHER": str(file.parent), "PACKAGE": str(package)}
    for name, path in named.items():
        arguments = arguments.replace(name, path)
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_long_comparison_says_how_far_it_is_and_when_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TOLD_S", 0.0)
    batches = [(torch.zeros(4, 1), torch.zeros(4))] * 3
    assert len(list(command.told(batches, 12))) == 3
    done = [line.partition("  finish ")[0] for line in capsys.readouterr().err.splitlines()]
    assert done == ["  4 of 12 images compared", "  8 of 12 images compared"]
