"""The benchmark program: what it refuses in one line, and the record it writes row by row; GPU
rows, run on a CPU.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import one_trial, registry, rows_gpu
from benchmarks.measure import Benchmark, Row, Setting, compared
from benchmarks.networks import FLOAT, UNFUSED

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nonsense"], "--only 'nonsense' matches none of: training step resnet20"),
        (["--json", "no/such/folder/file"], "the folder of 'no/such/folder/file' does not exist"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--fulll"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(setting: Setting) -> list[Row]:
        return [compared("first", "another", [1.0, 3.0, 2.0], [2.0, 2.0, 2.0], note="noted")]

    def interrupted(setting: Setting) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        registry,
        "BENCHMARKS",
        [Benchmark("first", "", measured), Benchmark("second", "", interrupted)],
    )
    with pytest.raises(KeyboardInterrupt):
        program.main(
            ["--json", str(tmp_path / "record.json"), "--markdown", str(tmp_path / "RESULTS.md")]
        )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record.keys() == {
        "date",
        "full",
        "only",
        "cpu",
        "cores",
        "gpus",
        "torch",
        "commit",
        "dirty",
        "rows",
    }
    assert record["rows"][0]["ratios"] == [0.5, 1.5, 1.0] and record["rows"][0]["median"] == 1.0
    table = (tmp_path / "RESULTS.md").read_text()
    assert "| first (noted) | 1.00 | 0.50..1.50 | 2 s | 2 s | another |" in table
    assert "`python -m benchmarks`, " in table
    assert record["cpu"] in table and record["date"] in table and record["commit"][:10] in table


class OneTrial:
    """Stands for the process of benchmarks.one_trial: runs it here, once, and gives its output to
    all who ask.
    """

    output = ""
    returncode = 0

    def __init__(self, command: list[str], **given: object) -> None:
        assert command[1:4] == ["-m", "benchmarks.one_trial", "cpu"]
        if not OneTrial.output:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                one_trial.main(command[3], *map(int, command[4:]))
            OneTrial.output = printed.getvalue()

    def communicate(self) -> tuple[str, None]:
        return OneTrial.output, None


@pytest.mark.usefixtures("settings_put_back")
def test_what_is_measured_on_a_gpu_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "rounds", 1)
    monkeypatch.setattr(rows_gpu, "compile_mode", lambda device: "off")
    setting = Setting(full=False, folder=tmp_path)
    row = rows_gpu.epoch_row(setting, "resnet20_1w1a", CPU, num_train=4, num_val=4)
    assert row.theirs == 0.5 and row.ratios and "images/s" in row.note
    monkeypatch.setattr(rows_gpu, "PRECISIONS", ("bf16",))
    assert [row.baseline for row in rows_gpu.imagenet_rows(setting, CPU, batch_size=2)] == [
        UNFUSED,
        FLOAT,
    ]
    monkeypatch.setattr(rows_gpu.subprocess, "Popen", OneTrial)
    found = rows_gpu.together_rows(setting, CPU, num_images=4, num_epochs=2)
    assert [row.name[0] for row in found] == ["2", "4", "8"]
    assert [row.median for row in found] == pytest.approx([1 / 2, 1 / 4, 1 / 8])


def test_without_a_gpu_its_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for benchmark in rows_gpu.BENCHMARKS:
        (row,) = benchmark.rows(Setting(full=False, folder=tmp_path))
        assert (
            row.note == "skipped: needs a CUDA device, and this machine has none"
            and row.name == benchmark.name
        )
