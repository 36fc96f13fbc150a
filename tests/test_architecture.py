"""Imports go one way, an engine is known to one room, nothing is long; docstrings hold."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "rbnn").rglob("*.py"))
TUNE = sorted((ROOT / "tune").rglob("*.py"))
# The lowest first.
ROOMS = ["rbnn", "cluster", "run", "sweep", "tracking", "report", "serve", "cli"]
ENGINES = {"mlflow": "tracking", "optuna": "sweep", "ray.tune": "sweep", "ray.train": "run"}
ENGINES |= dict.fromkeys(("plotly", "matplotlib", "rich"), "report")
MAX_LINES_OF_FILE, MAX_LINES_OF_FUNCTION = 300, 60
ORCHESTRATION = {"ray", "optuna", "mlflow", "tune"}
LOADED_WHEN_USED = {"nvidia", "onnx", "onnxruntime", "openvino", "safetensors"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it, with its module: `from a import b` is a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


def room_of(name: str) -> str:
    """The room that a module lies in; "" for what lies directly in tune/, and for others."""
    first, *rest = name.split(".")
    if first == "rbnn":
        return first
    return rest[0] if first == "tune" and rest and rest[0] in ROOMS else ""


def test_rbnn_imports_no_orchestration_and_dali_in_one_module() -> None:
    assert [path for path in SOURCES if packages(path) & ORCHESTRATION] == []
    assert [path.stem for path in SOURCES if "nvidia" in packages(path)] == ["dali"]


def test_a_fresh_process_that_imports_rbnn_has_loaded_no_orchestration_and_no_engine() -> None:
    names = [module_name(path) for path in SOURCES if not packages(path) & {"nvidia", "triton"}]
    command = [sys.executable, "-m", "tests.loaded", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"rbnn", "torch"} <= loaded
    assert loaded & (ORCHESTRATION | LOADED_WHEN_USED) == set()


def test_a_room_imports_itself_and_lower_ones_alone() -> None:
    wrong = []
    for path in TUNE:
        own = room_of(module_name(path)) or "rbnn"  # what all rooms share knows none of them
        if module_name(path) == "tune":  # what `import tune` offers, each when it is asked for
            own = "cli"
        for name in imports(path):
            if room_of(name) and ROOMS.index(room_of(name)) > ROOMS.index(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize(("engine", "room"), ENGINES.items())
def test_an_engine_is_known_to_one_room(engine: str, room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in TUNE
        for name in imports(path)
        if f"{name}.".startswith(f"{engine}.") and room_of(module_name(path)) != room
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_only_what_all_rooms_share_lies_directly_in_tune() -> None:
    names = {path.name for path in (ROOT / "tune").glob("*.py")}
    assert names == {"__init__.py", "process.py", "uris.py"}


def test_no_file_and_no_function_is_long() -> None:
    wrong = []
    for path in (*SOURCES, *TUNE):
        text = path.read_text()
        if len(text.splitlines()) > MAX_LINES_OF_FILE:
            wrong.append(f"{path.relative_to(ROOT)} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_LINES_OF_FUNCTION:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_rays_tune_is_always_written_in_full() -> None:
    for path in TUNE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "ray":
                assert "tune" not in {alias.name for alias in node.names}, path


@pytest.mark.parametrize(
    "path", [path for path in (*SOURCES, *TUNE) if ">>>" in path.read_text()], ids=module_name
)
def test_the_examples_in_docstrings_hold(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0 and result.failed == 0
