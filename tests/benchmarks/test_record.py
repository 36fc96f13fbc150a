"""The benchmark program: what it refuses, and the record it writes; GPU rows, run on a CPU."""

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
        (["--fulll"], "unrecognized arguments: --fulll"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = program.main(arguments)
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    assert status == 2 and not printed.out
    assert message in printed.err and printed.err.count("\n") == 1


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(setting: Setting) -> list[Row]:
        return [compared("first", "another", [1.0, 3.0, 2.0], [2.0, 2.0, 2.0], note="noted")]

    def interrupted(setting: Setting) -> list[Row]:
        raise KeyboardInterrupt

    both = [Benchmark("first", "", measured), Benchmark("second", "", interrupted)]
    monkeypatch.setattr(registry, "BENCHMARKS", both)
    json_file, markdown = tmp_path / "record.json", tmp_path / "RESULTS.md"
    with pytest.raises(KeyboardInterrupt):
        program.main(["--json", str(json_file), "--markdown", str(markdown)])
    record, table = json.loads(json_file.read_text()), markdown.read_text()
    names = "date full only cpu cores gpus torch commit dirty rows"
    assert record.keys() == set(names.split())
    assert record["rows"][0]["ratios"] == [0.5, 1.5, 1.0] and record["rows"][0]["median"] == 1.0
    assert "| first (noted) | 1.00 | 0.50..1.50 | 2 s | 2 s | another |" in table
    for part in ("`python -m benchmarks`, ", record["cpu"], record["date"], record["commit"][:10]):
        assert part in table


class OneTrial:
    """For the process of benchmarks.one_trial: runs it here, once, its output for all who ask."""

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
    rows = rows_gpu.imagenet_rows(setting, CPU, batch_size=2)
    assert [row.baseline for row in rows] == [UNFUSED, FLOAT]
    monkeypatch.setattr(rows_gpu.subprocess, "Popen", OneTrial)
    found = rows_gpu.together_rows(setting, CPU, num_images=4, num_epochs=2)
    assert [row.name[0] for row in found] == ["2", "4", "8"]
    assert [row.median for row in found] == pytest.approx([1 / 2, 1 / 4, 1 / 8])


def test_without_a_gpu_its_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for benchmark in rows_gpu.BENCHMARKS:
        (row,) = benchmark.rows(Setting(full=False, folder=tmp_path))
        assert row.note == "skipped: needs a CUDA device, and this machine has none"
        assert row.name == benchmark.name
