"""Checkpoints on their way through an object store: what one node sends is what another fetches,
and nothing older.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rbnn.errors import RecipeError
from tune.run import remote
from tune.run.remote import CheckpointStore, check_storage, fetch, folder_of, sending, store_of


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["file://{}", "local://{}"], ids=["pyarrow", "fsspec"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address that pyarrow knows, and one that only fsspec knows."""
    return str(request.param).format(tmp_path / "store") + "/sweep/trials/0000"


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a trial here, and on another node."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_another_node_finds_what_was_sent_and_nothing_older(
    address: str, nodes: tuple[Path, Path]
) -> None:
    here, there = nodes
    fetch(address, there)
    assert files(there) == {}  # a store without checkpoints leaves an empty folder
    (there / "last.ckpt").write_text("old")
    (there / "epoch-1.ckpt").write_text("old")
    kept = {"last.ckpt": "2", "best.ckpt": "1", "metrics.jsonl": "{}"}
    for name, text in {**kept, "notes.txt": "stays"}.items():
        (here / name).write_text(text)
    CheckpointStore(address).push(here)
    fetch(address, there)
    assert files(there) == kept


def test_epochs_are_sent_before_they_are_reported_and_only_what_changed(
    address: str, nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    sent, seen, send = list[str](), list[dict[str, str]](), CheckpointStore._send

    def noted(self: CheckpointStore, file: Path) -> None:
        sent.append(file.name)
        send(self, file)

    monkeypatch.setattr(CheckpointStore, "_send", noted)

    def report(metrics: dict[str, int], checkpoint: None) -> None:
        fetch(address, there)
        seen.append(files(there))

    report_after_sending = sending(address, here, report)
    (here / "best.ckpt").write_text("first")
    for epoch in range(2):
        (here / "last.ckpt").write_text(f"epoch {epoch}")
        report_after_sending({"epoch": epoch}, None)
    assert [found["last.ckpt"] for found in seen] == ["epoch 0", "epoch 1"]
    assert sent == ["best.ckpt", "last.ckpt", "last.ckpt"]
    (here / "best.ckpt").unlink()
    report_after_sending({"epoch": 2}, None)
    assert files(there) == {"last.ckpt": "epoch 1"}  # what is dropped here is dropped there


def test_a_shared_folder_is_the_sweeps_own_and_an_address_is_not() -> None:
    assert folder_of("/nfs/sweeps", "", "./result") == Path("/nfs/sweeps")
    assert folder_of("s3://bucket/sweeps", "", "./result") == Path("./result")
    assert store_of("s3://bucket/sweeps/", "one", "0003") == "s3://bucket/sweeps/one/0003"
    assert store_of("/nfs/sweeps", "one") == ""
    with pytest.raises(RecipeError, match="give storage_path alone"):
        folder_of("/nfs/sweeps", "elsewhere", "./result")


def test_places_that_cannot_keep_checkpoints_are_refused(tmp_path: Path) -> None:
    check_storage("", 1)
    check_storage(str(tmp_path / "shared"), 3)
    check_storage(f"file://{tmp_path}/store", 3)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the probe is removed"
    with pytest.raises(RecipeError, match="storage_path is missing, and trials run on 3 nodes"):
        check_storage("", 3)
    reason = r"storage_path 's4://bucket/x' cannot be used: .*give a folder"
    with pytest.raises(RecipeError, match=reason):
        remote.filesystem("s4://bucket/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"):
        check_storage(str(tmp_path / "file" / "below"), 1)
