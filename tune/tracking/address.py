"""Where the MLflow store is, and whether it answers: found out within seconds, before any work
starts.

MLflow itself retries an unreachable store for minutes; the checks here come first and try once.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rbnn.errors import RequestError
from tune.run.listener import warn
from tune.uris import (
    SQLITE,
    is_server,
    no_answer,
    shown,
    sqlite_path,
    told,
    with_absolute_path,
    without_login,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK_TIMEOUT_S, PATIENCE_S = 3.0, 60.0
DEFAULT_URI = "sqlite:///mlflow.db"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
    # Of a request to a server: with MLflow's own 7 a run would end minutes after its server did.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
# Against the user's own, for this process: its mirror has a thread of its own, which must know what
# the store has taken.
NEVER = {"MLFLOW_ENABLE_ASYNC_LOGGING": "false"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DATABASE_REMEDY = "check the name of the database, and the password in ~/.pgpass or PGPASSWORD"
REMEDY = (
    "start it, or set MLFLOW_TRACKING_URI to a server (http://...) or a database file "
    f"({SQLITE}/folder/mlflow.db)"
)


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or ./mlflow.db; a database file is named by its absolute path."""
    return with_absolute_path(os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_URI)


def artifact_folder(uri: str) -> Path | None:
    """Where artifacts go: beside a database file, else here; None: a server decides."""
    path = sqlite_path(uri)
    return None if is_server(uri) else (path.parent if path else Path.cwd()) / "mlartifacts"


def unreachable(uri: str, reason: object, remedy: str = REMEDY) -> RequestError:
    """The one line that says which store cannot be used, why, and what to do."""
    return RequestError(f"MLflow store {shown(uri)} cannot be used: {told(reason)}; {remedy}")


def check_reachable(uri: str, patience_s: float = 0.0) -> None:
    """RequestError within about CHECK_TIMEOUT_S where the store does not answer; patience_s: for a
    locked database file, which is waited for with a word.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    path = sqlite_path(uri)
    if path is not None:
        _check_file(uri, path, time.monotonic() + patience_s)
    elif is_server(uri):
        _check_server(uri)
    elif scheme in DATABASE_PORTS:
        if why := no_answer(uri, DATABASE_PORTS[scheme], CHECK_TIMEOUT_S):
            raise unreachable(uri, why)
    elif scheme in ("", "file"):
        reason = "it is a folder, and MLflow 3 keeps runs in a database"
        raise unreachable(uri, reason, f"set e.g. {DEFAULT_URI}")
    elif scheme == "sqlite":
        raise unreachable(uri, "it names no file", f"set e.g. {DEFAULT_URI}")


def _check_server(uri: str) -> None:
    try:
        address = f"{without_login(uri).rstrip('/')}/health"
        with urllib.request.urlopen(address, timeout=CHECK_TIMEOUT_S) as answer:
            healthy = answer.read(64).strip() == b"OK"
    except urllib.error.HTTPError as error:
        raise unreachable(uri, f"/health answers HTTP {error.code}") from None
    except urllib.error.URLError as error:
        raise unreachable(uri, getattr(error.reason, "strerror", None) or error.reason) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise unreachable(uri, error) from None
    if not healthy:
        raise unreachable(uri, "what answers there is not an MLflow server")


def _check_file(uri: str, path: Path, give_up_at: float, *, again: bool = False) -> None:
    """Open the database file, creating it, and take its write lock once."""
    if not path.parent.is_dir():
        reason = f"the folder {path.parent} does not exist"
        raise unreachable(uri, reason, "create it, or set another MLFLOW_TRACKING_URI")
    try:
        connection = sqlite3.connect(path, timeout=CHECK_TIMEOUT_S, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA schema_version")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        remedy = f"choose a writable place, MLFLOW_TRACKING_URI={SQLITE}/folder/mlflow.db"
        if "locked" in str(error):
            if time.monotonic() < give_up_at:
                if not again:
                    warn(f"MLflow store {shown(uri)} is locked by another program; waiting for it")
                return _check_file(uri, path, give_up_at, again=True)
            remedy = "another process writes to it; end that one first, or use an MLflow server"
        raise unreachable(uri, error, remedy) from None


RUN = (
    "SELECT 1 FROM runs WHERE run_uuid LIKE :word || '%' UNION ALL "
    "SELECT 1 FROM tags WHERE key = 'rbnn.id' AND value LIKE :word || '%'"
)
SWEEP = f"SELECT 1 FROM tags WHERE key = 'rbnn.sweep' AND value = :word UNION ALL {RUN}"


def may_hold(query: str, values: Any) -> bool:
    """Whether the store can hold what a query finds in MLflow's tables: without importing MLflow,
    which takes seconds. True for a store that is no file, and for tables that differ.
    """
    path = sqlite_path(tracking_uri())
    if path is None or not path.is_file():
        return path is None
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)
        with closing(connection):
            return connection.execute(f"{query} LIMIT 1", values).fetchone() is not None
    except sqlite3.Error:
        return True


def quiet_client(uri: str) -> MlflowClient:
    """An MLflow client that only warns and reports nothing home; the first takes seconds."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.update(NEVER)
    from mlflow import MlflowClient

    if not os.environ.get("MLFLOW_LOGGING_LEVEL"):
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It writes tracebacks of errors that it raises as well.
        logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_schema(uri: str, said: object = "") -> None:
    """RequestError where another version of MLflow made a database's tables, by the revision in a
    database file or in what MLflow said of it: MLflow itself upgrades some of them unasked.
    """
    found = re.findall(r"(?:found version|identified by) '?(\w+)", str(said))
    path = sqlite_path(uri)
    if path is not None and path.is_file():
        query = "SELECT version_num FROM alembic_version"
        with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error):
            found = [row[0] for row in database.execute(query)]
    if not found:
        return
    import mlflow

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    steps = "\n".join(file.read_text("utf-8") for file in folder.glob("*.py"))
    known = re.findall(r"(?m)^revision\b[^=]*= [\"'](\w+)", steps)
    former = re.findall(r"(?m)^down_revision\b[^=]*= [\"'](\w+)", steps)
    if found[0] in known:
        if found[0] not in former:  # it is the last step
            return
        reason, remedy = "an older MLflow made its tables", f"mlflow db upgrade {shown(uri)}"
        raise unreachable(uri, reason, f"back it up, then: {remedy}")
    remedy = "install that version, or name another store in MLFLOW_TRACKING_URI"
    raise unreachable(uri, f"a newer MLflow made its tables (revision {found[0]})", remedy)


# Where MLflow keeps the absolute places of files.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_files(uri: str) -> None:
    """Where a database file and its folder of artifacts lie elsewhere by now, moved or copied
    together, let its rows name the files that lie beside it.
    """
    path, folder = sqlite_path(uri), artifact_folder(uri)
    if path is None or folder is None or not (path.is_file() and folder.is_dir()):
        return
    own, query = folder.as_uri(), "FROM experiments JOIN runs USING (experiment_id)"
    came_from = set()
    with (
        suppress(sqlite3.Error),  # read-only, locked or of other tables: left as it is
        closing(sqlite3.connect(path, timeout=CHECK_TIMEOUT_S)) as database,
        database,
    ):
        for other, run in database.execute(f"SELECT artifact_location, run_uuid {query}"):
            address = str(other).removeprefix("file://")
            place = Path(url2pathname(address))
            is_here = "://" not in address and place.name == folder.name
            is_ours = is_here and (folder / run).is_dir()
            # One folder under two names, by a link, needs nothing.
            if is_ours and not (place.is_dir() and place.samefile(folder)):
                came_from.add(str(other))
        for (table, column), other in itertools.product(PLACES, came_from):
            database.execute(
                f"UPDATE {table} SET {column} = ?1 || substr({column}, length(?2) + 1) "
                f"WHERE {column} = ?2 OR substr({column}, 1, length(?2) + 1) = ?2 || '/'",
                (own, other),
            )
        for other in came_from:
            warn(f"MLflow store {shown(uri)} came from {other}; its files are those in {own} now")


def opened(
    uri: str, patience_s: float = 0.0, remedy: str = REMEDY
) -> tuple[MlflowClient, dict[str, str]]:
    """(a client, where the files of each experiment go); the tables of a database are made where
    they are missing. RequestError, one line, within seconds where the store cannot be used.
    """
    check_reachable(uri, patience_s)
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    check_schema(uri)
    follow_files(uri)
    try:
        if not is_server(uri):
            engine = create_engine(uri)
            engine.connect().close()  # once: MLflow itself tries a refused login again for minutes
            engine.dispose()
        client = quiet_client(uri)
        experiments = client.search_experiments()
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        check_schema(uri, error)
        raise unreachable(uri, error, remedy) from error
    return client, {found.name: found.artifact_location for found in experiments}


def prepare_database(uri: str) -> dict[str, str]:
    """Where the files of each experiment of a database go; its tables are made."""
    return opened(uri, remedy=DATABASE_REMEDY)[1]
