"""The command line of a run: documented options word for word, what is given wins, mistakes."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rbnn import checkpoint
from rbnn.checkpoint import Checkpoint
from rbnn.errors import RecipeError, RunFailed
from rbnn.options import (
    OneLineParser,
    add_recipe_options,
    exit_status,
    find_checkpoint,
    given_options,
    recipe_from,
)
from rbnn.recipe import FIELDS, TYPES, Recipe, load_recipe

# The two command lines of the RBNN repository's README, as they stand there.
DOCUMENTED = {
    "cifar10_resnet20_1w1a": """--gpus 0 --model resnet20_1w1a --results_dir ./result
        --data_path ./data --dataset cifar10 --epochs 1000 --lr 0.1 -b 256 -bt 128
        --Tmin 1e-2 --Tmax 1e1 --lr_type cos --warm_up""",
    "imagenet_resnet18_1w1a": """--gpus 0,1,2,3 --model resnet18_1w1a
        --results_dir ./result --data_path ./data --dataset imagenet --epochs 120 --lr 0.1 -b 256
        -bt 128
        --Tmin 1e-2 --Tmax 1e1 --lr_type cos --warm_up --use_dali""",
}
# A value other than the default, as text of a command line: of a type, and of options that take
# not every one.
BY_TYPE: dict[type, tuple[str, Any]] = {
    int: ("7", 7), float: ("0.5", 0.5), bool: ("", True), str: ("x", "x")
}  # fmt: skip
OTHERS: dict[str, tuple[str, Any]] = {
    "lr_decay_step": ("30 60 90", (30, 60, 90)),
    "val_fraction": ("0.25", 0.25),
    "momentum": ("0.25", 0.25),
}
NAMES = {"dataset": "digits", "model": "resnet18_1w1a", "lr_type": "step", "compile": "off"}
NAMES |= {"semantics": "through_rotation", "loader": "torchvision", "precision": "bf16"}
OTHERS |= {name: (text, text) for name, text in NAMES.items()}


def parsed(line: str, *, positional: bool = True) -> argparse.Namespace:
    parser = OneLineParser(prog="rbnn train")
    add_recipe_options(parser, positional=positional)
    return parser.parse_args(shlex.split(line))


def saved(folder: Path, **options: Any) -> Recipe:
    """A recipe, whose checkpoint the folder then holds."""
    recipe = Recipe(dataset="digits", **options)
    checkpoint.save(folder / "last.ckpt", Checkpoint({}, recipe=recipe.to_dict()))
    return recipe


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_command_line_is_the_documented_recipe(name: str) -> None:
    recipe = recipe_from(parsed(DOCUMENTED[name]))
    gpus = "0,1,2,3" if "imagenet" in name else "0"
    assert recipe == load_recipe(name, gpus=gpus, results_dir="./result", data_path="./data")


@pytest.mark.parametrize(("number", "name"), [*enumerate(DOCUMENTED)])
def test_the_command_lines_above_are_the_readmes(number: int, name: str, shared_dir: Path) -> None:
    text = (shared_dir / "spec" / "seed-readme.txt").read_text()
    commands = re.findall(r"```bash\npython -u main\.py(.*?)```", text, flags=re.DOTALL)
    assert shlex.split(commands[number].replace("\\\n", " ")) == DOCUMENTED[name].split()


@pytest.mark.parametrize("name", FIELDS)
def test_every_recipe_field_is_an_option_under_all_its_names(name: str) -> None:
    text, value = OTHERS.get(name) or BY_TYPE[TYPES[name]]
    assert FIELDS[name].default != value
    short = FIELDS[name].metadata["short"]
    for flag in [f"--{name}", f"--{name.replace('_', '-')}", *([f"-{short}"] if short else [])]:
        given = given_options(parsed(f"{flag} {text}"))
        assert list(given) == [name]
        if name == "lr_type":
            given["lr_decay_step"] = [1]
        assert getattr(Recipe(**given), name) == value


def test_what_is_not_given_is_not_there() -> None:
    assert given_options(parsed("")) == {} and recipe_from(parsed("")) == Recipe()


def test_what_is_given_wins_over_the_recipe_even_the_default(tmp_path: Path) -> None:
    name = "cifar10_resnet18_1w1a"
    assert load_recipe(name).warm_up
    for line in (f"{name} --no-warm_up", f"--recipe {name} --no_warm_up"):
        recipe = recipe_from(parsed(f"{line} --epochs 400"))
        assert (recipe.model, recipe.epochs, recipe.warm_up) == ("resnet18_1w1a", 400, False)
    (tmp_path / "mine.yaml").write_text("lr: 0.3\nwarm_up: true\n")
    recipe = recipe_from(parsed(f"{tmp_path}/mine.yaml --lr 0.1"))
    assert (recipe.lr, recipe.warm_up) == (Recipe().lr, True)


def test_a_resumed_run_takes_its_recipe_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = saved(tmp_path, epochs=7, lr=0.3)
    own = {"results_dir": str(tmp_path.parent), "save": tmp_path.name}
    for place in (str(tmp_path), str(tmp_path / "last.ckpt")):
        again = recipe_from(parsed(f"--resume {place}"))
        assert again == recipe.replace(resume=place, **own)
        elsewhere = recipe_from(parsed(f"--resume {place} --save b"))
        assert elsewhere == recipe.replace(resume=place, save="b")
        evaluation = recipe_from(parsed(f"--evaluate {place} -b 32"))
        assert evaluation == recipe.replace(evaluate=place, batch_size=32, compile="off")
        assert find_checkpoint(place) == str(tmp_path / "last.ckpt")


def test_milestones_on_the_line_need_lr_type_step(tmp_path: Path) -> None:
    saved(tmp_path, lr_decay_step=(3,))
    told = r"lr_decay_step is \[30, 60\], and lr_type cos has no milestones"
    for rest in ("", "--lr_type cos", f"--resume {tmp_path}"):
        with pytest.raises(RecipeError, match=told):
            recipe_from(parsed(f"--lr_decay_step 30 60 {rest}"))
    assert recipe_from(parsed("--lr_decay_step 30 60 --lr_type step")).lr_decay_step == (30, 60)
    assert recipe_from(parsed(f"--resume {tmp_path}")).lr_decay_step == (3,)


@pytest.mark.parametrize(("gpus", "wanted"), [("0,1,2,3", ""), ("none", "none"), ("", "")])
def test_an_evaluation_needs_nothing_of_the_machine_it_was_trained_on(
    gpus: str, wanted: str, tmp_path: Path
) -> None:
    saved(tmp_path, train_workers=4, gpus=gpus, compile="on", threads=2)
    found = recipe_from(parsed(f"--evaluate {tmp_path}"))
    assert (found.train_workers, found.compile, found.gpus, found.threads) == (1, "off", wanted, 2)
    assert recipe_from(parsed(f"--resume {tmp_path}")).train_workers == 4
    assert recipe_from(parsed(f"--evaluate {tmp_path} --gpus 1")).gpus == "1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--epoch 3", "unrecognized arguments: --epoch; nearest: --epochs"),
        ("--batchsize=3 --lr 1", "unrecognized arguments: --batchsize; nearest: --batch_size"),
        ("--bogus", "unrecognized arguments: --bogus"),
        ("--lr", "argument --lr: expected one argument"),
        ("--lr_decay_step", "argument --lr_decay_step: expected at least one argument"),
        ("a b", "unrecognized arguments: b"),
    ],
)
def test_a_wrong_line_is_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(line)
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert (captured.out, captured.err) == ("", f"rbnn train: {message}; see rbnn train --help\n")


def test_help_names_every_option_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name, spec in FIELDS.items():
        assert f"--{name}" in text and " ".join(spec.metadata["meaning"].split()) in text


def test_the_exit_status_tells_requests_from_failed_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(RecipeError("lr is 0"), "rbnn") == 2
    assert exit_status(RunFailed("worker died"), "rbnn") == 1
    assert capsys.readouterr().err == "rbnn: lr is 0\nrbnn: worker died\n"
