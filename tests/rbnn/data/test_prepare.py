"""Downloads, of a local server, go on where they stopped, are verified, and unpack whole or not."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rbnn.data import cifar, open_source, progress
from rbnn.data import prepare as module
from rbnn.data.prepare import Archive, prepare, unpack
from rbnn.errors import DataError


class Server(ThreadingHTTPServer):
    """Serves `content`; `cuts`: after how many bytes each of the next replies breaks off."""

    content = b""
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mirror/file.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        ranged = wanted if self.server.ranges else None
        start = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        if start and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive(server: Server, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A tiny Tiny ImageNet on the server, taken for the official one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for path in sorted(tiny.rglob("*")):
            target.write(path, Path(tiny.name) / path.relative_to(tiny))
    server.content = packed.getvalue()
    official = Archive(server.url, hashlib.md5(server.content).hexdigest(), "tiny-imagenet-200")
    monkeypatch.setattr(module, "TINY", official)
    return official


def test_a_data_set_is_downloaded_unpacked_and_then_used_as_it_is(
    server: Server, archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = prepare("tinyimagenet", tmp_path / "new")
    told = "tinyimagenet: 12 training and 7 validation images, 3 classes of 200, in "
    assert message == f"{told}'{tmp_path / 'new'}'"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny-imagenet-200"]
    assert prepare("tinyimagenet", tmp_path / "new") == message
    assert len(server.asked) == 1
    printed = capsys.readouterr().err
    assert "file.zip: " in printed and "\r" not in printed


@pytest.mark.parametrize(
    ("ranges", "cuts", "asked"),
    [
        (True, [1000, 2000], [None, "bytes=1000-", "bytes=3000-"]),
        (False, [1000], [None, "bytes=1000-"]),
    ],
)
def test_a_cut_connection_is_taken_up_again(
    ranges: bool,
    cuts: list[int],
    asked: list[str | None],
    server: Server,
    archive: Archive,
    tmp_path: Path,
) -> None:
    server.ranges, server.cuts = ranges, cuts
    prepare("tinyimagenet", tmp_path)
    assert server.asked == asked and (tmp_path / "tiny-imagenet-200").is_dir()


def test_a_later_run_goes_on_from_there(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0]
    with pytest.raises(DataError, match=r"run again to go on from 0\.0 MiB"):
        prepare("tinyimagenet", tmp_path)
    assert (tmp_path / "file.zip.partial").stat().st_size == 1000
    prepare("tinyimagenet", tmp_path, url=server.url)
    assert server.asked[-1] == "bytes=1000-"


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_partial_file_that_nothing_follows_is_whole_or_another(
    more: bytes, server: Server, archive: Archive, tmp_path: Path
) -> None:
    (tmp_path / "file.zip.partial").write_bytes(server.content + more)
    if more:
        with pytest.raises(DataError, match="md5"):
            prepare("tinyimagenet", tmp_path)
    else:
        prepare("tinyimagenet", tmp_path)
    assert len(server.asked) == 1


def test_another_file_is_deleted(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.content = b"something else"
    found = hashlib.md5(server.content).hexdigest()
    with pytest.raises(DataError, match=f"md5 {found}, not {archive.md5}"):
        prepare("tinyimagenet", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.zip", "no-scheme://x/y.zip", "nonsense"])
def test_a_server_that_is_away_is_one_line(archive: Archive, tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare("tinyimagenet", tmp_path, url=url)
    message = str(caught.value)
    assert message.startswith(f"url '{url}' cannot be downloaded: ") and "--url" in message
    assert "\n" not in message


def test_what_is_there_is_not_overwritten(server: Server, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-200" / "train").mkdir(parents=True)
    told = r"tiny-imagenet-200' is there, but not whole .*delete it and run again"
    with pytest.raises(DataError, match=told):
        prepare("tinyimagenet", tmp_path)
    assert server.asked == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare("tinyimagenet", tmp_path / "file")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_shows_amount_pace_of_now_and_finish(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier download brought counts as done, and not for the pace."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(progress, "finish_time", lambda seconds: f"in {seconds:.0f} s")
    show = progress.printer("a.zip", "MiB", 1000)
    for now, done in ((10.0, 5000), (10.02, 5100), (12.0, 7000), (13.0, 10000)):
        monkeypatch.setattr(progress.time, "monotonic", lambda now=now: now)
        show(done, 10000)
    drawn = [
        ("[##########          ] ", "a.zip: 5.0 of 10.0 MiB"),
        ("[##############      ] ", "a.zip: 7.0 of 10.0 MiB, 1.0 MiB/s, finish in 3 s"),
        ("[####################] ", "a.zip: 10.0 of 10.0 MiB, 1.7 MiB/s"),
    ]
    bars = "".join(f"\r{bar}{text}\x1b[K" for bar, text in drawn) + "\n"
    lines = "".join(f"{text}\n" for _, text in drawn)
    assert capsys.readouterr().err == (bars if is_terminal else lines)


def packed_zip(path: Path, member: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "x")


def packed_tar(path: Path, member: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))


@pytest.mark.parametrize("pack", [packed_zip, packed_tar])
@pytest.mark.parametrize("member", ["../escaped", "folder/../../escaped"])
def test_an_archive_of_outside_is_refused(pack: object, member: str, tmp_path: Path) -> None:
    pack(tmp_path / "archive", member)
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(DataError, match="writes outside its folder"):
        unpack(tmp_path / "archive", inner, "folder")
    assert list(inner.iterdir()) == [] and not (tmp_path / "escaped").exists()


def test_a_tar_archive_is_unpacked_and_a_damaged_one_named(tmp_path: Path) -> None:
    packed_tar(tmp_path / "archive", "folder/file")
    unpack(tmp_path / "archive", tmp_path, "folder")
    assert (tmp_path / "folder" / "file").read_text() == "x"
    (tmp_path / "archive").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is damaged"):
        unpack(tmp_path / "archive", tmp_path, "folder")


def test_what_cannot_or_need_not_be_downloaded(tmp_path: Path, imagenet: Path) -> None:
    assert "nothing to do" in prepare("digits", tmp_path)
    with pytest.raises(DataError, match=r"by hand: register at https://image-net\.org"):
        prepare("imagenet", tmp_path)
    told = "imagenet: 18 training and 7 validation images, 3 classes of 1000"
    assert prepare("imagenet", imagenet).startswith(told)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-py"])
def test_cifar_beside_the_project_is_used_as_it_is(folder: str, shared_dir: Path) -> None:
    told = "cifar10: 50000 training and 10000 validation images, 10 classes, in "
    assert prepare("cifar10", shared_dir / "data" / "cifar10" / folder).startswith(told)


def test_files_missing_in_cifar_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = cifar.torchvision_class("cifar10")
    folder, content = tmp_path / official.base_folder, b"as published"
    folder.mkdir()
    md5 = hashlib.md5(content).hexdigest()
    for name in ("train_list", "test_list"):
        files = [file for file, _ in getattr(official, name)]
        monkeypatch.setattr(official, name, [(file, md5) for file in files])
        for file in files:
            (folder / file).write_bytes(content)
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": md5})
    (folder / "data_batch_3").write_bytes(b"something else")
    told = (
        f"data_path '{tmp_path}': of cifar-10-batches-py, data_batch_3 is damaged (md5), "
        "batches.meta is missing; delete "
    )
    with pytest.raises(DataError, match=f"^{re.escape(told)}"):
        open_source("cifar10", str(tmp_path))
