"""Environment variables that Ray and MLflow read, set before either library is imported."""

from __future__ import annotations

import os

DEFAULTS = {
    # No usage statistics leave the machine. Both libraries decide this when they are imported.
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    # A tracking server that does not answer would hold each upload for minutes: MLflow retries 7
    # times by default. The uploader has its own schedule, so each request fails at once.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
}


def set_defaults() -> None:
    """Set every variable of DEFAULTS that is not set already. Call it before importing either."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
