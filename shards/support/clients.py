"""Clients of object stores: fsspec's file systems, with time-outs and without retries of their own.

Retrying is decided in one place, `shards.support.retry`. With their own settings botocore and s3fs
retry 5 times each, one inside the other, so that a server which accepts a request and stays silent
would hold a call for minutes: a heartbeat would then outlast its lease.
"""

from __future__ import annotations

import functools
from typing import Any

import fsspec

# Seconds to connect, and of silence in an answer. Neither bounds a transfer that goes on.
CONNECT_SECONDS, SILENT_SECONDS = 5, 15
EXTRAS = {"s3": "aws", "gs": "gcp", "https": "aws"}  # our optional dependencies that bring a client


def file_system(location: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises: ValueError where the client is not installed.
    """
    scheme = location.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(location, **_options(scheme))
    except ImportError as error:
        raise ValueError(
            f"location `{location}`: {error}; install it with pip install '.[{EXTRAS[scheme]}]'"
        ) from None
    if scheme == "s3":
        fs.retries = 1  # attempts
    return fs, path


def _options(scheme: str) -> dict[str, Any]:
    """fsspec would otherwise remember listings, while other processes write."""
    if scheme == "s3":
        timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS}
        config = timeouts | {"retries": {"total_max_attempts": 1}}
        return {"config_kwargs": config, "use_listings_cache": False, "session": _session()}
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
    )
    if scheme == "gs":  # six attempts of its own, which no option turns off
        return {"requests_timeout": timeout, "use_listings_cache": False}
    return {"client_kwargs": {"timeout": timeout}, "use_listings_cache": False}


@functools.cache
def _session() -> Any:
    """A session whose uploads do not ask for "100 Continue".

    aiohttp waits for that answer without a time-out, so a silent server would hold an upload for
    as long as it keeps the connection.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session


def forget_credentials(location: str) -> None:
    """The next call reads environment and files of credentials anew."""
    # fsspec keeps one client for equal options, and client and session the credentials they read.
    _session.cache_clear()
    fsspec.get_filesystem_class(location.partition("://")[0]).clear_instance_cache()
