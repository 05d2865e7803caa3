"""Tracking URIs: the default one, and which can be used at all."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from shards.support.command import one_line, without_password
from shards.support.registry import CONTROL

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # those that MLflow has a store for
EXPECTED = "expected e.g. http://HOST:5000, sqlite:///PATH/mlflow.db or postgresql://USER@HOST/NAME"


def default_uri(folder: Path) -> str:
    """The URI of `mlflow.db` in a run folder, whatever the folder is called.

    Raises: ValueError for `?` or `%` in its path where SQLAlchemy is too old for them.
    """
    path = str(folder.resolve() / "mlflow.db")
    match = re.search(r"[^/]*[?%]", path)
    if match is None:
        return f"sqlite:///{path}"
    # SQLAlchemy takes `?` for the start of options and decodes `%2e`, so they are encoded. MLflow
    # makes the folder of the path as it stands in the URI. With every further `/` encoded as well,
    # that is a folder which exists already, and nothing is written beside the run folder.
    start = match.start()
    uri = f"sqlite:///{path[:start]}{urllib.parse.quote(path[start:], safe='')}"
    from sqlalchemy.engine import make_url

    if make_url(uri).database != path:
        raise ValueError(
            f"{folder}: SQLAlchemy before 2.1 opens no database in a folder with `?` or `%` in its "
            "path; update it, or choose another --out"
        )
    return uri


def tracking_uri(folder: Path, given: str | None) -> str:
    """The given URI, or the default one. Raises: ValueError for one that cannot work."""
    if not given:
        return default_uri(folder)
    check_tracking_uri(given)
    return given


def is_tracking_uri(text: str) -> bool:
    """Whether `text` is the URI of a tracking server or database, and not a folder or store."""
    scheme = urllib.parse.urlsplit(text).scheme
    return scheme in ("http", "https", "databricks") or scheme.partition("+")[0] in DATABASES


def check_tracking_uri(uri: str) -> None:
    """Raises: ValueError for a URI of which it is clear, without a connection, that it cannot work.

    A server that does not answer is no such case: it may answer later.
    """
    try:
        if CONTROL.search(uri):  # urllib drops some of them, and would check another URI
            raise ValueError("has control characters")
        scheme = urllib.parse.urlsplit(uri).scheme
        if scheme in ("http", "https"):
            _check_address(uri)
        elif scheme.partition("+")[0] in DATABASES:
            _check_database(uri)
        else:
            _check_other(uri)
    except ValueError as error:
        found = f"tracking URI {uri}: {error}"
        raise ValueError(f"{one_line(without_password(found))}; {EXPECTED}") from None


def _check_address(uri: str) -> None:
    parts = urllib.parse.urlsplit(uri)
    if not parts.hostname:
        raise ValueError("has no host")
    _ = parts.port  # raises ValueError for what is not a port


def _check_database(uri: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
    except ArgumentError:  # also for an unknown driver
        raise ValueError("is not the URL of a database") from None
    except ImportError as error:
        raise ValueError(f"its driver is not installed ({error})") from None
    if url.get_backend_name() != "sqlite":
        return
    if not url.database or url.database == ":memory:":
        raise ValueError("is a database in memory, of which nothing is left after the sweep")
    path = Path(url.database).absolute()
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written, see {folder}")


def _check_other(uri: str) -> None:
    """Folders, and the schemes of MLflow's plug-ins."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(uri)
    except MlflowException as error:
        text = one_line(str(error))
        if "unsupported URI" in text:
            text = "MLflow does not know this kind of URI"
        raise ValueError(text.split(". ")[0][:200]) from None
