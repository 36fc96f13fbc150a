"""What a file is by its beginning; a file of torch.save is nothing that needs a name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from rbnn.signatures import is_packed, kind_of

ZIPPED, TARRED = io.BytesIO(), io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("last.ckpt", b"x")
with tarfile.open(fileobj=TARRED, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("last.ckpt"))
PACKED = {
    "a file compressed with gzip": gzip.compress(b"x", mtime=0),
    "a file compressed with bzip2": bz2.compress(b"x"),
    "a file compressed with xz": lzma.compress(b"x"),
    "a file compressed with zstd": b"(\xb5/\xfd" + bytes(9),
    "a zip archive": ZIPPED.getvalue(),
    "a tar archive": TARRED.getvalue(),
}
OTHERS = {
    "an empty file": b"",
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>",
    "a HEIC image": b"\0\0\0\x18ftypheic" + bytes(9),
    "a video": b"\0\0\0\x18ftypisom" + bytes(9),
    "a Git LFS pointer, not the file it stands for": b"version https://git-lfs.github.com/spec/v1",
    "": b"epochs: 3",
}


@pytest.mark.parametrize(("kind", "content"), [*PACKED.items(), *OTHERS.items()])
def test_a_file_is_called_what_it_is(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") == kind
    assert is_packed(kind) == (kind in PACKED)


def test_a_file_of_torch_is_no_zip_archive(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "file")
    assert kind_of(tmp_path / "file") == ""
