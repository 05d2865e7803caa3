"""MLflow's database in an SQLite file: made whole or not at all, and which errors are the file's.

MLflow makes its tables one after the other. Of a file where that was cut short, by a full disk or a
kill, it says for ever that a table exists already.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from shards.support import conditional, storage

# Primary codes of errors that are of the file or its disk, and not of what is written to it.
_OF_THE_FILE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


def database_path(uri: str) -> Path | None:
    """The file of an `sqlite` URI, None for any other and for a database in memory."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return Path(name).absolute() if name and not name.startswith((":memory:", "file:")) else None


def make_database(uri: str) -> None:
    """Make the file of an `sqlite` URI with all of MLflow's tables, where it is missing or empty.

    Raises: OSError, naming the file and the bytes needed where the disk is full. Nothing is left
    behind then.
    """
    path = database_path(uri)
    if path is None or (path.exists() and path.stat().st_size):
        return
    content = _empty_database()
    if path.exists():
        path.unlink()
    # Another sweep may have made the same file meanwhile: its own must not be replaced.
    with contextlib.suppress(FileExistsError):
        conditional.create(str(path), content)


def _empty_database() -> bytes:
    """MLflow's tables and its first experiment, made in memory."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore("sqlite:///:memory:", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    with store.engine.connect() as connection:
        content: bytes = connection.connection.driver_connection.serialize()  # type: ignore
    store.engine.dispose()
    return content


def error_of_file(error: BaseException, uri: str) -> OSError | None:
    """The error in one line where it is of the database's file or its disk, else None."""
    path = database_path(uri)
    if path is None:
        return None
    for cause in _causes(error):
        code = getattr(cause, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in _OF_THE_FILE:
            continue
        if code == sqlite3.SQLITE_FULL:
            return storage.explain_full_disk(OSError(errno.ENOSPC, ""), path)
        return OSError(errno.EIO, f"{path}: {cause}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it was raised from; SQLAlchemy keeps SQLite's own as `orig`."""
    while error is not None:
        yield error
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
