"""Fetch a file over HTTP so that an interrupted download goes on where it stopped, and verify what
came.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from rbnn.data.progress import Progress, printer
from rbnn.errors import DataError

TIMEOUT_S = 30
BLOCK_BYTES = 1 << 20
MAX_FRUITLESS = 2  # connections in a row that bring nothing new before giving up
MIB = 1 << 20


def fetch(url: str, target: Path, md5: str) -> Path:
    """Download `url` to `target`, going on from `target`.partial where there is one; `target`
    appears only once verified.

    A connection that breaks is taken up again while it brings something. Raises DataError, one
    line, where the server cannot be reached or the file is not the one of that md5 (it is then
    deleted).
    """
    if target.exists() and file_md5(target) == md5:
        return target
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        receive(url, partial, printer(target.name, "MiB", MIB))
        found = file_md5(partial)
        if found != md5:
            partial.unlink()
            raise DataError(
                f"url '{url}' gave a file with md5 {found}, not {md5}; it was deleted: run again, "
                "or pass another --url"
            )
        partial.replace(target)
    except OSError as error:
        raise DataError(
            f"data_path '{target.parent}' cannot be written: {error.strerror or error}"
        ) from None
    return target


def receive(url: str, partial: Path, progress: Progress) -> None:
    """Complete `partial` from `url`; DataError where that fails, `partial` then being kept for the
    next attempt.
    """
    fruitless = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if receive_once(url, partial, progress):
                return
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            reason, fruitless = f"HTTP {error.code} {error.reason}", MAX_FRUITLESS
            error.close()
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
            ValueError,
        ) as error:
            reason = str(error) or type(error).__name__
        now = partial.stat().st_size if partial.exists() else 0
        fruitless = 0 if now > before else fruitless + 1
        if fruitless >= MAX_FRUITLESS:
            kept = f"; run again to go on from {now / MIB:.1f} MiB" if now else ""
            raise DataError(
                f"url '{url}' cannot be downloaded: {reason}; check the network, or pass a mirror "
                f"with --url{kept}"
            )


def receive_once(url: str, partial: Path, progress: Progress) -> bool:
    """One connection: append to `partial` what the server sends; whether the file is
    then complete.
    """
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if (
            error.code == 416 and have
        ):  # nothing follows what is there: it is whole, or another file, as its md5 will tell
            error.close()
            return True
        raise
    with reply:
        if reply.status != 206:
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with partial.open("ab" if have else "wb") as file:
            while block := reply.read1(BLOCK_BYTES):
                have += file.write(block)
                progress(have, total)
    return not total or have == total


def file_md5(path: Path) -> str:
    """The md5 of a file, as the publishers of the archives state it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
