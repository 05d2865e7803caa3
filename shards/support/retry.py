"""Transient errors of reads are retried; lasting ones become one line that names a remedy."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

T = TypeVar("T")

# Seconds before each further attempt. Together 2.1 s: enough for a dropped connection or a network
# mount that is being re-established, short enough that a dead disk is reported soon.
PAUSES = (0.1, 0.4, 1.6)
PATIENCE = 600.0  # seconds for which a result is offered to an object store that fails
TRANSIENT = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.EREMOTEIO),
    *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH),
}
# aiohttp is imported by name only: it is there only where s3:// or gs:// is used. These two of its
# errors do not derive from OSError.
TRANSIENT_NAMES = {"ClientConnectionError", "ClientPayloadError"}
CLIENTS = {"aiobotocore", "aiohttp", "boto3", "botocore", "gcsfs", "google", "requests", "s3fs"}
REMEDIES = {
    "s3": "check the bucket, AWS_ENDPOINT_URL, and the credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "check the bucket, and the credentials: `gcloud auth application-default login` or "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "https": "check the address, the network, and that it may be read without a login",
}


def retried(location: str, read: Callable[[], T]) -> T:
    """`read()`, called again after each of PAUSES while its error is transient.

    Raises: OSError naming `location` when the last attempt fails as well; at once any error that
    is not transient, such as FileNotFoundError and PermissionError.
    """
    # The first call bypasses tenacity, which costs about 20 us a call: streaming reads a row at a
    # time, and a row costs 2 us.
    try:
        return read()
    except Exception as error:
        known: Exception | None = error

    def attempt() -> T:
        nonlocal known
        if known is not None:  # the outcome of the call above counts as the first attempt
            error, known = known, None
            raise error
        return read()

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(len(PAUSES) + 1),
        wait=tenacity.wait_chain(*map(tenacity.wait_fixed, PAUSES)),
        retry=tenacity.retry_if_exception(is_transient),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except Exception as error:
        if not is_transient(error):
            raise describe_error(location, error) from None
        remedy = REMEDIES.get(_scheme(location), "check the disk or mount, then try again")
        raise OSError(
            f"{location}: could not be read, {len(PAUSES) + 1} attempts failed "
            f"({_text(error)}); {remedy}"
        ) from None


def patiently(
    location: str, write: Callable[[], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """`write()` to an object store, called again after 1, 2, 4, ... 30 s while it fails.

    For what took long to compute, and would be lost with the trial. The first failure is a warning
    on stderr. Raises: OSError, after PATIENCE seconds of pauses; at once on a disk, and where the
    bucket does not exist or may not be written.
    """
    waited, pause = 0.0, 1.0
    while True:
        try:
            write()
            return
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if _scheme(location) not in REMEDIES or waited >= PATIENCE:
                raise
            if not waited:
                print(f"warning: {location}: {_text(error)}; trying again", file=sys.stderr)
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, 30.0)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return any(kind.__name__ in TRANSIENT_NAMES for kind in type(error).__mro__)


def describe_error(location: str, error: Exception) -> Exception:
    """`error` itself; one of an object store's client as an OSError naming location and remedy.

    The clients raise many types and texts of several lines, which mean little to someone whose
    credentials have expired. FileNotFoundError and PermissionError keep their type.
    """
    remedy = REMEDIES.get(_scheme(location))
    of_client = type(error).__module__.partition(".")[0] in CLIENTS
    if remedy is None or not (of_client or isinstance(error, OSError)):
        return error
    kept = (kind for kind in (FileNotFoundError, PermissionError) if isinstance(error, kind))
    return next(kept, OSError)(f"{location}: {_text(error)}; {remedy}")


@contextlib.contextmanager
def described_errors(location: str) -> Iterator[None]:
    """Errors of an object store's client become one line (see `describe_error`); no retry."""
    try:
        yield
    except Exception as error:
        raise describe_error(location, error) from None


def _scheme(location: str) -> str:
    return location.partition("://")[0]


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
