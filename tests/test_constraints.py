"""The pinned stack installs on the oldest Python that pyproject.toml allows."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def test_no_pinned_package_wants_a_newer_python_than_we_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    refusing, seen = [], 0
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, pinned, version = line.partition("==")
        if not pinned:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # another system's
            continue
        wanted = found.metadata.get("Requires-Python") or ""
        seen += found.version == version
        if found.version == version and oldest not in SpecifierSet(wanted):
            refusing.append(f"{line}: {wanted}")
    assert seen > 100
    assert refusing == []
