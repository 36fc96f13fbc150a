"""Files that are whole at every moment: what was there stays until its successor is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rbnn.errors import RecipeError

# libyaml's safe loader reads the same ten times as fast, where PyYAML was built with it.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; its file takes the place of `path` at the end, or goes
    where writing fails.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes, *, mode: int = 0o666) -> None:
    """Make `data` (text as UTF-8) the content of `path`; a kill at any moment leaves the old or the
    new. mode: permissions of the file, less the umask.
    """
    content = data.encode() if isinstance(data, str) else data

    def opener(name: str, flags: int) -> int:
        # Its permissions from the start: at no moment can others read a secret.
        return os.open(name, flags, mode)

    with replacing(path) as partial, open(partial, "wb", opener=opener) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; RecipeError, one line, where it is missing, unreadable or
    something else.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), YAML_LOADER)
    except FileNotFoundError:
        raise RecipeError(f"{kind} '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{kind} '{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{kind} '{path}'{where} is not valid YAML: {getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(content, dict):
        raise RecipeError(
            f"{kind} '{path}' must hold 'key: value' lines, not {type(content).__name__}"
        )
    return content
