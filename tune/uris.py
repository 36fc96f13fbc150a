"""URIs of stores, and what of them, and of command lines, may be shown."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from rbnn.errors import one_line

SQLITE = "sqlite:///"
PASSWORD_IN_URI = re.compile(r"(//[^/\s:@]*:)[^/\s@]+@")
SECRET_IN_QUERY = re.compile(
    r"(?i)([?&](?:[\w-]*(?:password|passwd|token|secret|api-?key)[\w-]*)=)[^&\s'\"]+"
)
SECRET_OPTION = re.compile(
    r"(?i)(--?[\w-]*(?:password|passwd|token|secret|api-?key)[\w-]*(?:=|\s+))('[^']*'|\S+)"
)


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of the database file behind a sqlite URI; None for every other store."""
    named = unquote(uri.partition("?")[0].removeprefix(SQLITE))
    return Path(named).absolute() if uri.startswith(SQLITE) and named else None


def sqlite_uri(path: Path) -> str:
    """The URI of a database file. What means something in a URI, or in Optuna's, is written as %XX,
    which SQLAlchemy reads back.

    >>> sqlite_uri(Path("/100% sure?/mlflow.db"))
    'sqlite:////100%25 sure%3F/mlflow.db'
    """
    return SQLITE + re.sub(r"[%?#{}]", lambda found: f"%{ord(found[0]):02X}", str(path))


def with_absolute_path(uri: str) -> str:
    """`uri`, a database file being named by its absolute path."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(path) + uri[len(uri.partition("?")[0]) :]


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server rather than a database that this process
    opens itself.
    """
    return urlsplit(uri).scheme in ("http", "https")


def without_secrets(text: str) -> str:
    """The text with passwords in URIs and values of options such as --token replaced by ***.

    >>> without_secrets("rbnn ui --store postgresql://ann:geheim@db/runs --token abc")
    'rbnn ui --store postgresql://ann:***@db/runs --token ***'
    >>> without_secrets("postgresql://db/runs?user=ann&password=geheim")
    'postgresql://db/runs?user=ann&password=***'
    >>> without_secrets("postgresql//ann:geheim@db/runs")
    'postgresql//ann:***@db/runs'
    """
    return SECRET_OPTION.sub(
        r"\1***", SECRET_IN_QUERY.sub(r"\1***", PASSWORD_IN_URI.sub(r"\1***@", text))
    )


def told(error: object, limit: int = 300) -> str:
    """What an error says, in one line of at most so many characters, without passwords, nor the
    statement that a database did not take.
    """
    return without_secrets(one_line(error).partition(" [SQL: ")[0])[:limit]


def shown(uri: str) -> str:
    """The URI as it may be printed or logged: without a password."""
    parts = urlsplit(uri)
    if parts.password:
        uri = urlunsplit(
            parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}")
        )
    return without_secrets(uri)


def holds_password(*uris: str) -> bool:
    """Whether any of them may only be shown in part."""
    return any(shown(uri) != uri for uri in uris)


def no_answer(uri: str, default_port: int, timeout_s: float) -> object:
    """Why nothing listens at the host and port of a URI; "" where something does."""
    parts = urlsplit(uri)
    try:
        address = (parts.hostname or "localhost", parts.port or default_port)
        socket.create_connection(address, timeout_s).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or error
    return ""


def without_login(uri: str) -> str:
    """A server's address as a browser is to open it, and as it may be printed: without a user's
    name and password.
    """
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
