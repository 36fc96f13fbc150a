"""Imports go one way: tune -> rbnn -> torch; the examples in docstrings hold."""

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
FORBIDDEN = {"ray", "optuna", "mlflow", "tune"}
LOADED_SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({module.partition(".")[0] for module in sys.modules}))
"""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def imports_dali(path: Path) -> bool:
    return "nvidia" in imported(path)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_module_of_rbnn_imports_the_orchestration(path: Path) -> None:
    assert not imported(path) & FORBIDDEN


def test_only_the_dali_loader_imports_dali() -> None:
    assert sum(imports_dali(path) for path in SOURCES) <= 1


def test_a_fresh_process_that_imports_rbnn_has_loaded_no_orchestration() -> None:
    names = [
        module_name(path) for path in SOURCES if not imports_dali(path) and path.stem != "__main__"
    ]
    assert "rbnn.models" in names
    result = subprocess.run(
        [sys.executable, "-c", LOADED_SCRIPT, *names], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert {"rbnn", "torch"} <= loaded
    assert not loaded & (FORBIDDEN | {"nvidia"})


def test_rays_tune_is_always_written_in_full() -> None:
    for path in (ROOT / "tune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "ray":
                assert "tune" not in {alias.name for alias in node.names}, path


@pytest.mark.parametrize(
    "path",
    [
        path
        for package in ("rbnn", "tune")
        for path in sorted((ROOT / package).rglob("*.py"))
        if ">>>" in path.read_text()
    ],
    ids=module_name,
)
def test_the_examples_in_docstrings_hold(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0 and result.failed == 0
