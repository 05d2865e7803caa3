"""MLflow's own system metrics of this machine, in the sweep's run; for those who switch them on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator

from sweep.journal.server import Server

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's variable; its interval has one as well
INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"


@contextlib.contextmanager
def system_metrics(server: Server) -> Generator[None]:
    """Inside, `system/...` of this machine is stored every few seconds where SWITCH is true.

    It begins once the server is connected. These rows are samples of the moment: they are not in
    the journal, and a later upload does not make them again.
    """
    if os.environ.get(SWITCH, "").lower() not in ("1", "true"):
        yield
        return
    ended = threading.Event()

    def sample() -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        while server.parent is None:
            if ended.wait(1.0):
                return
        seconds = int(os.environ.get(INTERVAL) or 10)
        monitor = SystemMetricsMonitor(
            server.parent.id, seconds, resume_logging=True, tracking_uri=server.uri
        )
        monitor.start()
        ended.wait()
        monitor.finish()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
