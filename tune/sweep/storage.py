"""The database of a study: opened, or refused in one line; a locked file is waited for."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from rbnn.errors import RequestError, one_line
from tune.run.listener import warn
from tune.uris import shown, sqlite_path

LOCK_WAIT_S, PATIENCE_S = 1.0, 600.0  # for a locked database file: at a time, and in all
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)


class PatientCursor(sqlite3.Cursor):
    """Waits, with a word, for a database file that somebody else holds locked."""

    def execute(self, *given: Any) -> Any:
        return patiently(super().execute, *given)

    def executemany(self, *given: Any) -> Any:
        return patiently(super().executemany, *given)


class PatientConnection(sqlite3.Connection):
    """A connection of such cursors."""

    def cursor(self, factory: Any = PatientCursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        patiently(super().commit)


def patiently(step: Callable[..., Any], *given: Any) -> Any:
    """A step of a transaction, again while the file is locked, so that signals are heard."""
    give_up_at = None
    while True:
        try:
            return step(*given)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            if give_up_at is None:
                give_up_at = time.monotonic() + PATIENCE_S
                warn("the Optuna storage is locked by another program; waiting for it")
            elif time.monotonic() > give_up_at:
                raise


def open_storage(url: str, remedy: str = "see that it is there and answers, then try again") -> Any:
    """The Optuna storage at `url`; RequestError, one line, where none can be opened there."""
    try:
        try:
            return _open(url)
        except SQLAlchemyError as error:
            if "already exists" not in str(error):
                raise
            return _open(url)  # another process was making the tables at this very moment
    except (*STORAGE_ERRORS, ImportError, ValueError, OSError, RuntimeError) as error:
        if "optuna storage upgrade" in str(error):
            remedy = f"back it up, then: optuna storage upgrade --storage {shown(url)}"
        elif "no longer compatible" in str(error):
            remedy = "a newer Optuna has written it; install that version, or name another storage"
        reason = reason_of(error).partition(" Please ")[0]
        text = f"storage {shown(url)} cannot be used: {reason.rstrip('.')}; {remedy}"
        raise RequestError(text) from None


def _open(url: str) -> Any:
    given: dict[str, Any] = {}
    if sqlite_path(url):
        given["connect_args"] = {"factory": PatientConnection, "timeout": LOCK_WAIT_S}
    return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=given))


def reason_of(error: BaseException) -> str:
    """What a database says, in one line, without SQLAlchemy's and Optuna's wrapping."""
    while not getattr(error, "orig", None) and isinstance(error.__cause__, STORAGE_ERRORS):
        error = error.__cause__
    return one_line(getattr(error, "orig", None) or error)[:300]


def check_storage_url(url: str) -> None:
    """RequestError where no Optuna storage opens at `url`, or it would forget; "": our own."""
    if url.startswith("sqlite:") and (sqlite_path(url) is None or ":memory:" in url):
        raise RequestError(
            f"storage {shown(url)} is in memory, and ends with its process; name a file, e.g. "
            "sqlite:////folder/optuna.db"
        )
    if url:
        open_storage(url, "give e.g. postgresql://USER@HOST/NAME, or leave it out for a file")
