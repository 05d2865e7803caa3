"""What MLflow's errors mean for an upload: refused for good, or to be tried again."""

from __future__ import annotations

from shards.support.command import one_line

# MLflow's codes of errors that the same request would get again.
REFUSALS = {
    *("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"),
    *("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "INVALID_STATE", "NOT_IMPLEMENTED"),
}


def code_of(error: Exception) -> str:
    """MLflow's code of an error, "" for any other."""
    return str(getattr(error, "error_code", ""))


def is_refusal(error: Exception) -> bool:
    """Whether the same request would fail again, whatever the state of the server."""
    code = code_of(error)
    return code in REFUSALS if code else not isinstance(error, OSError)


def is_of_connection(error: BaseException | None) -> bool:
    """Whether no answer came, so that the error says nothing about what was sent."""
    while error is not None:
        if isinstance(error, OSError):  # those of `requests` are, and MLflow raises from them
            return True
        error = error.__cause__ or error.__context__
    return False


def reason(error: Exception) -> str:
    """The error's text in one line of at most 300 characters."""
    return one_line(str(error))[:300] or type(error).__name__
