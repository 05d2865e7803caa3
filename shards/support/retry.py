"""Reads that meet a fault: what may pass is tried again, what stays becomes one clear line."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

PAUSES = (0.1, 0.4, 1.6)  # seconds before each further attempt
PASSING = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.EREMOTEIO),
    *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH),
}
PASSING_NAMES = {"ClientConnectionError", "ClientPayloadError"}  # aiohttp's that are no OSError
CLIENTS = {"aiobotocore", "aiohttp", "boto3", "botocore", "gcsfs", "google", "requests", "s3fs"}
REMEDIES = {
    "s3": "check the bucket, AWS_ENDPOINT_URL, and the credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "check the bucket, and the credentials: `gcloud auth application-default login` or "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "https": "check the address, the network, and that it may be read without a login",
}


def passing(error: Exception) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError):
        return error.errno in PASSING
    return any(kind.__name__ in PASSING_NAMES for kind in type(error).__mro__)


def clear(location: str, error: Exception) -> Exception:
    """`error` itself, or, of an object store's client, an OSError naming location and remedy."""
    remedy = REMEDIES.get(location.partition("://")[0])
    ours = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS
    if remedy is None or not ours:
        return error
    kinds = (k for k in (FileNotFoundError, PermissionError) if isinstance(error, k))
    text = " ".join(str(error).split()) or type(error).__name__
    return next(kinds, OSError)(f"{location}: {text}; {remedy}")


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """What a client raises inside becomes an OSError of one line (see `clear`)."""
    try:
        yield
    except Exception as error:
        raise clear(location, error) from None


def patiently(location: str, call: Callable[[], T]) -> T:
    """`call()`, tried again after each of PAUSES where its error may pass.

    Raises: at the end an OSError that names `location`; at once whatever will not pass, such as
    FileNotFoundError and PermissionError.
    """
    for pause in PAUSES:
        try:
            return call()
        except Exception as error:
            if not passing(error):
                raise clear(location, error) from None
        time.sleep(pause)
    try:
        return call()
    except Exception as error:
        if not passing(error):
            raise clear(location, error) from None
        text = " ".join(str(error).split()) or type(error).__name__
        remedy = REMEDIES.get(location.partition("://")[0], "check the disk or mount, then retry")
        raise OSError(
            f"{location}: could not be read, {len(PAUSES) + 1} attempts failed ({text}); {remedy}"
        ) from None
