"""The command `rbnn`: help without torch, and every mistake a user can make answered in one line
with exit status 2.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from rbnn.checkpoint import Checkpoint, save
from rbnn.errors import RunFailed
from rbnn.models import build
from rbnn.recipe import RECIPE_DIR, Recipe, recipe_files
from tests.tune.cli.mistakes import MISTAKES
from tune.cli.__main__ import INTERRUPTED, Output, main

COMMON = (
    "--results_dir ./result --data_path ./data --lr 0.1 -b 256 -bt 128 --Tmin 1e-2 --Tmax 1e1 "
    "--lr_type cos --warm_up"
)
CIFAR_COMMAND = f"--gpus 0 --model resnet20_1w1a --dataset cifar10 --epochs 1000 {COMMON}"
IMAGENET_COMMAND = (
    f"--gpus 0,1,2,3 --model resnet18_1w1a --dataset imagenet --epochs 120 {COMMON} --use_dali"
)


@pytest.fixture(autouse=True)
def workplace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An empty working directory with its own store, one for all tests here: creating one takes
    seconds.
    """
    monkeypatch.chdir(tmp_path)
    store = tmp_path_factory.getbasetemp() / "cli-store"
    store.mkdir(exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    return tmp_path


def num_runs() -> int:
    """Runs in the store of these tests, read without MLflow."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])


def status_of(line: str) -> int:
    """The exit status of a command line, whether it is returned or raised by the parser."""
    try:
        return main(shlex.split(line))
    except SystemExit as end:
        return int(end.code or 0)


def refusal_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses a command, which must have written nothing else, nor to disk."""
    capsys.readouterr()
    before = sorted(Path().rglob("*")), num_runs()
    status = status_of(line)
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert re.fullmatch(r"rbnn.*\n", captured.err)
    assert (sorted(Path().rglob("*")), num_runs()) == before
    return captured.err


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are wrong."""
    folder = tmp_path_factory.mktemp("mistaken")
    (folder / "bad_key.yaml").write_text("recipe: cifar10_resnet20_1w1a\nbogus_key: 1\n")
    model = "base: {dataset: digits, model: resnet21_1w1a}"
    (folder / "bad_model.yaml").write_text(f"{model}\nspace: {{lr: {{log: [0.01, 1]}}}}\n")
    (folder / "not_yaml.yaml").write_text("space: [\n")
    (folder / "random.ckpt").write_bytes(random.Random(0).randbytes(100))
    save(folder / "other.ckpt", Checkpoint(build("resnet18_1w1a", "digits").state_dict()))
    return folder


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_one_line_with_status_2(
    line: str, mistaken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mistaken)
    assert MISTAKES[line] in refusal_of(line, capsys)


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="tells of a machine without GPUs")
@pytest.mark.parametrize(("line", "gpus"), [(CIFAR_COMMAND, "0"), (IMAGENET_COMMAND, "0,1,2,3")])
def test_the_documented_commands_need_their_gpus(
    line: str, gpus: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before a store is made here; the document's `main.py` is `rbnn train`."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    refusal = refusal_of(f"train {line}", capsys)
    said = f"gpus is '{gpus}', but this machine has no GPU; pass --gpus none to train on the CPU"
    assert refusal == f"rbnn: {said}\n"
    monkeypatch.setattr(sys, "argv", ["main.py", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(RECIPE_DIR / "main.py"), run_name="__main__")
    assert (end.value.code, capsys.readouterr().err) == (2, refusal)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////no/such/folder/mlflow.db"])
@pytest.mark.parametrize(
    "line",
    ["train --dataset digits --epochs 1", "replay cifar10_resnet20_1w1a", "sweep quickstart"],
)
def test_a_store_that_does_not_answer_is_told_before_anything_is_written(
    line: str, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert refusal_of(line, capsys).startswith(f"rbnn: MLflow store {uri} cannot be used: ")


def test_recipes_lists_every_named_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("recipes") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in recipe_files())
    assert status_of("recipes --json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(recipe_files())
    figures = {row["name"]: row.get("top1") for row in rows}
    assert figures["imagenet_resnet34_1w1a_150ep_b512"] == 63.141


def test_evaluate_reads_our_files_and_the_authors_alike(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("resnet20_1w1a", "digits")
    recipe = Recipe(dataset="digits", epochs=3).to_dict()
    save("ours.ckpt", Checkpoint(model.state_dict(), recipe=recipe))
    theirs = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": theirs}, "authors.pt")
    answers = []
    for line in ("evaluate ours.ckpt --json", "evaluate authors.pt --dataset digits --json"):
        assert status_of(line) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0].pop("file") == "ours.ckpt" and answers[1].pop("file") == "authors.pt"
    assert answers[0] == answers[1] and answers[0]["data"] == "digits"
    assert set(answers[0]) == {"data", "val/loss", "val/top1", "val/top5"}


def test_data_check_says_what_is_there_to_people_and_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of("data check digits") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "every image can be decoded" and captured.err == ""
    assert status_of("data check digits --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["counts"]["train"].values()) == 1400 and found["damaged"] == []
    assert found["fingerprint"] in captured.out


def test_data_check_shows_its_progress_and_is_status_1_for_damage(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbnn.data.check.CHUNK", 2)
    for split in ("train", "val"):
        for wnid in ("n01", "n02"):
            folder = workplace / split / wnid
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(folder / f"{number}.JPEG")
    damaged = workplace / "train" / "n02" / "1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert status_of("data check imagenet --data_path .") == 1
    captured = capsys.readouterr()
    assert "imagenet train: 4 images in 2 classes, 2 to 2 per class" in captured.out
    last = f"image '{damaged}' cannot be decoded: it is truncated or damaged"
    assert captured.out.splitlines()[-2:] == ["1 damaged", last]
    steps = [f"imagenet: decoded: {done} of 8 images" for done in (2, 4, 6, 8)]
    assert [line.partition(",")[0] for line in captured.err.splitlines()] == steps


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (RunFailed("worker 1 died"), 1, "rbnn: worker 1 died\n"),
        (KeyboardInterrupt(), INTERRUPTED, "rbnn: interrupted"),
        (OSError(errno.EDQUOT, "Quota", "f"), 1, "rbnn: the disk takes no more: Quota: f; make"),
        (ZeroDivisionError(), None, ""),  # an error of ours keeps its traceback
    ],
)
def test_a_failed_run_is_status_1_and_an_interrupted_one_130(
    error: BaseException, status: int | None, text: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tune.run.train.train_recorded", Mock(side_effect=error))
    if status is None:
        with pytest.raises(ZeroDivisionError):
            status_of("train --dataset digits")
        return
    assert status_of("train --dataset digits") == status
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        *((line, 0) for line in ("--help", "--version", "train --help", "sweep --help", "recipes")),
        *((line, 2) for line in ("replay 0123", "diff aaaa bbbb", "export x y", "ui nosuch")),
    ],
)
def test_help_lists_and_wrong_names_are_answered_without_loading_anything_heavy(
    line: str, status: int, workplace: Path
) -> None:
    """Nor is anything written: the store that is there has no run yet."""
    store = workplace / "mlflow.db"
    with closing(sqlite3.connect(store)) as database:
        database.executescript("CREATE TABLE runs (run_uuid); CREATE TABLE tags (key, value);")
    code = (
        "import atexit, sys; from tune.cli.__main__ import main\n"
        "atexit.register(lambda: print('LOADED', *{'torch', 'ray', 'mlflow', 'optuna'} & "
        "set(sys.modules), file=sys.stderr))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    command = [sys.executable, "-c", code, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    told = done.stderr.splitlines()
    assert (done.returncode, told[-1], len(told)) == (status, "LOADED", 2 if status else 1)
    assert bool(done.stdout) == (status == 0) and [*workplace.iterdir()] == [store]


def test_help_names_every_command_once_under_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--help") == 0
    listed = re.findall(r"^  ([a-z]+) {2,}", capsys.readouterr().out, re.MULTILINE)
    assert status_of("no_such_command") == 2
    known = re.findall(r"'([a-z]+)'", capsys.readouterr().err.partition("choose from")[2])
    assert len(known) > 15 and sorted(listed) == sorted(known)


def test_output_that_nobody_can_read_any_more_is_dropped(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    closed = Output(open(writer, "w"))  # noqa: SIM115
    full = Output(open("/dev/full", "w"))  # noqa: SIM115
    narrow = Output((tmp_path / "out").open("w", encoding="ascii"))
    for stream in (closed, full, narrow):
        for _ in range(2):
            print("Müller", file=stream, flush=True)
        stream.close()
    assert (tmp_path / "out").read_text() == "M\\xfcller\n" * 2
