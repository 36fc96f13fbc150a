"""Where trials keep their checkpoints when they may run on any node: a folder that all nodes share,
or an object store.

A shared folder needs nothing: the sweep's folder lies there. For an address such as
s3://bucket/folder a trial works in a folder of its own node, takes what the store holds before it
starts, and gives it every checkpoint as soon as it is written; so a trial whose node dies goes on
elsewhere from its last epoch.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.errors import RecipeError
from rbnn.files import replacing
from tune.uris import told, without_secrets

# Checkpoints, and the journal of epochs and the diagnostics that belong to them.
KEPT = (".ckpt", ".jsonl", ".csv")
REMEDY = "give a folder that all nodes share, or an address such as s3://bucket/folder"
BLOCK_BYTES = 1 << 22
ATOMIC = ("s3", "gcs", "abfs")  # an object appears there when it is complete, and not before


def is_address(storage_path: str) -> bool:
    """Whether checkpoints go through pyarrow.fs or fsspec rather than into a folder."""
    return "://" in storage_path


def folder_of(storage_path: str, results_dir: str, default: str) -> Path:
    """Where a sweep's folder goes: the shared folder, else `results_dir`, else `default`."""
    if not storage_path or is_address(storage_path):
        return Path(results_dir or default)
    if results_dir:
        both = f"results_dir is '{results_dir}' and storage_path '{storage_path}'"
        raise RecipeError(f"{both}; a sweep has one folder: give storage_path alone")
    return Path(storage_path).expanduser()


def store_of(storage_path: str, *names: str) -> str:
    """The address of a sweep, or of a trial of it, in the object store; "" where there is none."""
    return "/".join([storage_path.rstrip("/"), *names]) if is_address(storage_path) else ""


class CheckpointStore:
    """One run's checkpoints in an object store, at any address of pyarrow.fs or fsspec."""

    def __init__(self, address: str) -> None:
        self.fs, self.path = filesystem(address)
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self, directory: Path) -> None:
        """Make `directory` hold the store's checkpoints alone: any others are old."""
        directory.mkdir(parents=True, exist_ok=True)
        names = self._names()
        for name in _kept(directory).keys() - names:
            (directory / name).unlink(missing_ok=True)
        for name in names:
            source = self.fs.open_input_stream(f"{self.path}/{name}")
            with source, replacing(directory / name) as partial, partial.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
            self._sent[name] = version_of(directory / name)

    def push(self, directory: Path) -> None:
        """Make the store hold `directory`'s checkpoints and no others; what changed is sent."""
        files = _kept(directory)
        self.fs.create_dir(self.path, recursive=True)
        for name, file in files.items():
            version = version_of(file)
            if self._sent.get(name) != version:
                self._send(file)
                self._sent[name] = version
        for name in self._names() - files.keys():
            self.fs.delete_file(f"{self.path}/{name}")

    def _send(self, file: Path) -> None:
        target = f"{self.path}/{file.name}"
        partial = target if self.fs.type_name in ATOMIC else f"{target}.part"
        with file.open("rb") as source, self.fs.open_output_stream(partial) as stream:
            shutil.copyfileobj(source, stream, BLOCK_BYTES)
        if partial != target:
            self.fs.move(partial, target)

    def _names(self) -> set[str]:
        from pyarrow.fs import FileSelector

        found = self.fs.get_file_info(FileSelector(self.path, allow_not_found=True))
        return {info.base_name for info in found if info.base_name.endswith(KEPT)}


def _kept(directory: Path) -> dict[str, Path]:
    files = [file for file in sorted(directory.iterdir()) if file.name[0] != "."]
    return {file.name: file for file in files if file.name.endswith(KEPT)}


def version_of(file: Path) -> tuple[int, int]:
    """What changes with a file's content."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def filesystem(address: str) -> tuple[Any, str]:
    """(pyarrow file system, path in it) of an address; RecipeError where nobody knows it."""
    import fsspec
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        fs, path = FileSystem.from_uri(address)
        return fs, path.rstrip("/")
    except (ArrowException, OSError) as unknown_to_pyarrow:
        try:
            fs, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, OSError) as error:
            reason = told(error) or told(unknown_to_pyarrow)
            raise RecipeError(
                f"storage_path '{without_secrets(address)}' cannot be used: {reason}; {REMEDY}"
            ) from None
        return PyFileSystem(FSSpecHandler(fs)), path.rstrip("/")


def check_storage(storage_path: str, num_nodes: int) -> None:
    """RecipeError, one line, where checkpoints cannot be kept there: a small file is tried."""
    if not storage_path:
        if num_nodes > 1:
            problem = f"storage_path is missing, and trials run on {num_nodes} nodes"
            raise RecipeError(f"{problem}; {REMEDY} (--storage_path)")
        return
    address = storage_path
    if not is_address(address):
        address = str(Path(address).expanduser().absolute())
    fs, path = filesystem(address)
    probe = f"{path}/.probe-{uuid.uuid4().hex}"
    try:
        fs.create_dir(path, recursive=True)
        with fs.open_output_stream(probe) as stream:
            stream.write(b"rbnn")
        fs.delete_file(probe)
    except OSError as error:
        problem = f"cannot be written: {told(error)}; choose another"
        raise RecipeError(f"storage_path '{without_secrets(storage_path)}' {problem}") from None


def fetch(address: str, directory: Path) -> None:
    """Make `directory` hold what the store at `address` holds, if there is one."""
    if address:
        CheckpointStore(address).fetch(directory)


def sending(address: str, directory: Path, report: Callable[..., Any]) -> Callable[..., Any]:
    """`report`, each epoch's checkpoints being sent before it to the store at `address`, if any."""
    if not address:
        return report
    store = CheckpointStore(address)

    def send_and_report(*arguments: Any) -> Any:
        store.push(directory)
        return report(*arguments)

    return send_and_report
