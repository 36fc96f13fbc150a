"""What a file is by its first bytes, for the error line about one that is not what it should be."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 512
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"(\xb5/\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
OTHERS = {
    b"%PDF": "a PDF document",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
    b"<svg": "an SVG drawing",
    b"#?RADIANCE": "a Radiance HDR image",
    b"v/1\x01": "an OpenEXR image",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for",
}
BRANDS = {b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIF image"}


def is_packed(kind: str) -> bool:
    """Whether a file of that kind holds others."""
    return kind.startswith("a file compressed") or kind.endswith("archive")


def kind_of(path: str | Path) -> str:
    """What the file is, with an article, e.g. "a gzip-compressed file"; "" where it is not known.

    A zip that torch.save wrote is not called one.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    for start, name in COMPRESSED.items():
        if head.startswith(start):
            return f"a file compressed with {name}"
    if head.startswith(b"PK\3\4") and b"/data.pkl" not in head:
        return "a zip archive"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for start, name in OTHERS.items() if text.startswith(start.lower())), "")
