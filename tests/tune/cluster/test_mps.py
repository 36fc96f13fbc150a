"""CUDA's MPS, by a program that stands for its daemon's and notes what it is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune.cluster import mps
from tune.cluster.mps import CONTROL, LOGS, PIPES, served

PROGRAM = """#!/bin/sh
echo "$* $(cat) $CUDA_MPS_PIPE_DIRECTORY ${CUDA_VISIBLE_DEVICES-all}" >> "$NOTES"
exit $STATUS
"""


@pytest.mark.parametrize(
    ("wanted", "installed", "own", "status", "asked"),
    [
        (True, True, "", "0", ["-d  {} all", " quit {} all"]),
        (True, True, "", "1", ["-d  {} all"]),
        (True, True, "/a/daemon/of/the/user", "0", []),
        (True, False, "", "0", []),
        (False, True, "", "0", []),
    ],
)
def test_mps_serves_what_starts_within_and_ends_with_it(
    wanted: bool, installed: bool, own: str, status: str, asked: list[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "bin").mkdir()
    notes, program = tmp_path / "notes", tmp_path / "bin" / CONTROL
    if installed:
        program.write_text(PROGRAM)
        program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    before = {"PATH": path, "NOTES": str(notes), "STATUS": status, "CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setattr("os.environ", before | ({PIPES: own} if own else {}))
    monkeypatch.setattr(mps, "DEFAULT_PIPES", tmp_path / "none")
    with served(wanted) as variables:
        serves = len(asked) == 2
        assert [*variables] == ([PIPES, LOGS] if serves else [])
        folder = variables.get(PIPES, "")
        assert not serves or Path(folder).is_dir()
    said = notes.read_text().splitlines() if notes.exists() else []
    assert [line.split()[0] for line in said] == [line.split()[0] for line in asked]
    assert said == [line.format(folder) for line in asked] or not serves
    assert not folder or not Path(folder).exists()
    assert ("does not start" in capsys.readouterr().err) == (status == "1")
