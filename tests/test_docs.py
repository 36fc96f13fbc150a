"""README and docs/: links lead somewhere, commands are ones that the command line takes, sweep
files load, examples run, and what is generated is what the code says now.

`make docs-check` (RBNN_DOCS=1) really runs the first block of every page, and its longer examples.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import recipe_options
from rbnn.__main__ import parser as plain_parser
from rbnn.options import given_options
from rbnn.recipe import FIELDS, Recipe, recipe_files
from tune.cli.__main__ import parser
from tune.sweep.config import KEYS, SAMPLERS, SCHEDULER_KEYS, SCHEDULERS, parse_sweep, sweep_files

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")), *DOCS]


def options_of(*parsers: argparse.ArgumentParser) -> set[str]:
    """Every option of the parsers and of their commands."""
    found = set()
    for each in parsers:
        found |= set(each._option_string_actions)
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= options_of(*action.choices.values())
    return found


PARSERS = {"rbnn": parser(), "python -m rbnn": plain_parser()}
OPTIONS = {name.replace("-", "_") for name in options_of(*PARSERS.values())}
# Of other programs, which no test here runs.
OTHERS = {"source", "export", "eval", "head", "mlflow", "podman", "kubectl"}
OTHERS.add("deploy/kubernetes/secrets.sh")
SWEEP = {"name": "s", "base": {"dataset": "digits", "epochs": 10}}
FENCE = re.compile(r"^(?:<!-- (.+?) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
really = pytest.mark.skipif("RBNN_DOCS" not in os.environ, reason="minutes: make docs-check")


@dataclass(frozen=True)
class Block:
    """A block of code. note: what the comment before it says of running it, or ""."""

    page: Path
    number: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}-{self.language}"


def blocks_of(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text())
    return [Block(page, i, lang, text, note) for i, (note, lang, text) in enumerate(found)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def each_block(*languages: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=str)


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands_in(text: str) -> Iterator[list[str]]:
    """The commands of a bash block, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def prose_of(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def spans_of(page: Path) -> list[str]:
    """What stands in backticks outside blocks, each in one line."""
    return [" ".join(span.split()) for span in SPAN.findall(prose_of(page))]


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """What runs, and what it is given: `python -m NAME` is one program."""
    first = words[0].removeprefix(".venv/bin/")
    if words[:3] == ["python", "-u", "experiments/main.py"]:
        return "rbnn", ["train", *words[3:]]
    if first == "python" and words[1:2] == ["-m"]:
        return f"python -m {words[2]}", words[3:]
    return first, words[1:]


def check(words: list[str], *, whole: bool) -> None:
    """Fail where no such command exists; whole: it must be complete, as it stands in a block."""
    program, rest = program_of(words)
    if program in PARSERS:
        check_ours(program, rest, whole=whole)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program.startswith("python -m "):
        assert importlib.util.find_spec(program.split()[-1]), f"no module of {program}"
        named = [word for word in rest if word.startswith("tests")]
        assert all((ROOT / name).exists() for name in named), f"{named}: not all exist"
    else:
        assert program in OTHERS or not whole, f"{program}: unknown here"


def check_ours(program: str, words: list[str], *, whole: bool) -> None:
    try:
        args = PARSERS[program].parse_args(words)
    except SystemExit as end:
        assert end.code == 0 or not whole, f"{program} {shlex.join(words)} is refused"
        return
    if hasattr(args, "start_from_option"):  # it takes recipe options
        Recipe(**{**given_options(args), "resume": "", "evaluate": ""})
    named = {"file": sweep_files(), "target": recipe_files(), "start_from": recipe_files()}
    for argument, known in named.items():
        name = getattr(args, argument, None) or ""
        if "_" in name and not re.search(r"[./]", name):
            assert name in known, f"{name} does not exist"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
        assert not anchor or anchor in slugs, target


@each_block("bash")
def test_a_command_in_a_block_is_one_that_exists(block: Block) -> None:
    for words in commands_in(block.text):
        check(words, whole=True)


@each_page
def test_commands_and_options_in_the_text_exist(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for span in spans_of(page):
        if span.startswith("--"):
            assert span.split()[0].replace("-", "_") in OPTIONS, span
        elif re.match(r"(rbnn|make|python -m) \w", span):
            check(shlex.split(span), whole=False)
            refusal = capsys.readouterr().err
            assert not refusal or "are required" in refusal, f"{span}: {refusal}"


@each_block("yaml")
def test_a_sweep_or_recipe_file_loads(block: Block) -> None:
    values: dict[str, Any] = yaml.safe_load(block.text)
    if values.keys() <= FIELDS.keys():
        Recipe(**values)
    else:
        given = values if "name" in values else {**SWEEP, **values}
        assert parse_sweep(given, ROOT).space.entries


@each_block("python")
def test_an_example_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block.text, str(block), "exec")
    monkeypatch.chdir(tmp_path)
    if not block.note:
        exec(code, {"__name__": "example"})


def test_the_page_of_recipe_options_is_what_the_code_says() -> None:
    told = "run: python -m docs.recipe_options"
    assert recipe_options.TARGET.read_text() == recipe_options.page(), told


def test_every_key_of_a_sweep_file_has_a_row_and_no_other() -> None:
    text = (ROOT / "docs" / "sweep-files.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    keys = {name for row in rows for name in re.findall(r"\w+", row)}
    assert keys == {*KEYS, *SCHEDULER_KEYS}
    assert {*SAMPLERS, *SCHEDULERS} <= set(spans_of(ROOT / "docs" / "sweep-files.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_a_page_begins_with_something_to_run(page: Path) -> None:
    first = blocks_of(page)[0]
    assert first.language in ("bash", "python") and not first.note
    before = page.read_text().partition("```")[0]
    assert page.stem == "index" or len(before.splitlines()) <= 2


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {page.stem for page in tmp_path.glob("*.html")} >= {page.stem for page in DOCS}


@really
@pytest.mark.timeout(3600)  # the quickstart on a loaded machine
@pytest.mark.parametrize(
    "page",
    [page for page in DOCS if page.stem != "index"],  # which begins as searching does
    ids=lambda page: page.stem,
)
def test_the_first_block_and_the_long_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    first, *others = blocks_of(page)
    examples = [block for block in others if block.note.startswith("slow")]
    for block in [first, *examples]:
        run(block, tmp_path)


def run(block: Block, folder: Path) -> None:
    """Run a block in an empty folder with a home of its own; a page that is served is ended."""
    where = ROOT if "tests/" in block.text else folder
    program = ["bash", "-e"] if block.language == "bash" else [sys.executable]
    file = folder / f"block-{block.number}"
    file.write_text(block.text)
    environment = {**os.environ, "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    with (folder / "output").open("w+") as output:
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        process = subprocess.Popen(
            [*program, str(file)],
            cwd=where,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            if "rbnn ui" in block.text:
                end_when_served(process, folder / "output")
            status = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    print((folder / "output").read_text())
    assert status == 0


def end_when_served(process: subprocess.Popen[bytes], output: Path) -> None:
    """Press Ctrl-C once the page says that it can be pressed."""
    while process.poll() is None and "Ctrl-C ends it" not in output.read_text():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    os.killpg(process.pid, signal.SIGINT)
