"""What errors of object stores mean: which may pass, which say that credentials have expired.

The clients (s3fs on botocore, gcsfs, and aiohttp for https://) raise many types and texts of
several lines, which mean little to a reader. Their types are looked at by name, because a client is
installed only where it is used.
"""

from __future__ import annotations

import errno

TRANSIENT = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.EREMOTEIO),
    *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH),
}
# Of aiohttp, botocore, requests and google.auth: the connection was refused, reset or cut, nothing
# answered in time, or the answer was not whole. Most of these do not derive from OSError.
TRANSIENT_NAMES = {
    *("ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteReadError"),
    *("ResponseStreamingError", "ResponseParserError", "ConnectionError", "Timeout"),
    *("ChunkedEncodingError", "ProxyError", "TransportError", "ChecksumError"),
}
# Answers with a status below 500 that ask for another attempt.
TRANSIENT_CODES = {
    *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"),
    *("RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict", "408", "429"),
}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
# There are no valid credentials at present: of a role whose service does not answer, of a login or
# a token that has expired, or because their file is being replaced.
EXPIRED_NAMES = {
    *("CredentialRetrievalError", "NoCredentialsError", "PartialCredentialsError"),
    *("TokenRetrievalError", "SSOError", "RefreshError"),
}
CLIENTS = {"aiobotocore", "aiohttp", "boto3", "botocore", "gcsfs", "google", "requests", "s3fs"}
REMEDIES = {
    "s3": "check the bucket, AWS_ENDPOINT_URL, and the credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "check the bucket, and the credentials: `gcloud auth application-default login` or "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "https": "check the address, the network, and that it may be read without a login",
}


def remedy_of(location: str) -> str | None:
    """What to check where the store of a URL fails; None for a path."""
    return REMEDIES.get(location.partition("://")[0])


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    if answered := _answer(error):
        status, code = answered
        return code in TRANSIENT_CODES or (status >= 500 and status != 501)
    if isinstance(error, FileNotFoundError):
        # fsspec's client for https:// raises this for every failure to find a file's size.
        return error.__cause__ is not None and is_transient(error.__cause__)
    if isinstance(error, ConnectionError | TimeoutError) or _is_one_of(error, TRANSIENT_NAMES):
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT


def is_expired(error: BaseException) -> bool:
    """Whether the credentials have expired, so that the call succeeds with renewed ones."""
    if answered := _answer(error):
        status, code = answered
        # The answer to a HEAD request has no body that could say so: S3 sends a bare 400.
        operation = getattr(_response_error(error), "operation_name", "")
        bare = code == "400" and str(operation).startswith("Head")
        return code in EXPIRED_CODES or status == 401 or bare
    return _is_one_of(error, EXPIRED_NAMES)


def codes_of(error: BaseException) -> tuple[int, str]:
    """(HTTP status, code) of the answer that an error reports; (0, "") where none came."""
    return _answer(error) or (0, "")


def _response_error(error: BaseException) -> BaseException:
    """The client's own error: s3fs raises a built-in one, whose cause it is."""
    cause = error.__cause__
    return cause if hasattr(cause, "response") and cause is not None else error


def _answer(error: BaseException) -> tuple[int, str] | None:
    """The status and code of an answer of the store; None where the error is about none."""
    found = _response_error(error)
    response = getattr(found, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status or (code if code.isdigit() else 0)), code
    # aiohttp's ClientResponseError has `status`, gcsfs's HttpError has `code`.
    number = getattr(found, "status", None) or getattr(found, "code", None)
    if _is_of_client(found) and str(number).isdigit():
        return int(str(number)), str(number)
    return None


def describe_error(location: str, error: Exception) -> Exception:
    """`error` itself; one of an object store's client as an OSError naming location and remedy.

    FileNotFoundError and PermissionError keep their type.
    """
    remedy = remedy_of(location)
    if remedy is None or not (_is_of_client(error) or isinstance(error, OSError)):
        return error
    kept = (kind for kind in (FileNotFoundError, PermissionError) if isinstance(error, kind))
    return next(kept, OSError)(f"{location}: {text_of(error)}; {remedy}")


def text_of(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_of_client(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in CLIENTS


def _is_one_of(error: BaseException, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)
