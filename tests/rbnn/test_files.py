"""A file is replaced as a whole, or stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbnn.files import replacing, write_atomically


@pytest.mark.parametrize(("data", "written"), [("ä\n", "ä\n".encode()), (b"\x00\r\n", b"\x00\r\n")])
def test_text_and_bytes_replace_a_file(data: str | bytes, written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before, and longer")
    write_atomically(file, data)
    assert file.read_bytes() == written and list(tmp_path.iterdir()) == [file]


def test_permissions_come_before_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(os.fstat(number).st_mode & 0o777))
    write_atomically(tmp_path / "secret", "word", mode=0o600)
    assert seen == [0o600] == [(tmp_path / "secret").stat().st_mode & 0o777]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(OSError, match="full"), replacing(file) as partial:
        partial.write_text("half")
        raise OSError("full")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
