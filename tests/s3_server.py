"""A bucket on a real server of the S3 protocol, in this process, which can be made to fail."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

ANSWERS = {  # fault: (status, code)
    "500": ("500 Internal Server Error", "InternalError"),
    "slow down": ("503 Slow Down", "SlowDown"),
    "denied": ("403 Forbidden", "AccessDenied"),
    "expired": ("400 Bad Request", "ExpiredToken"),
}
FAULTS = (*ANSWERS, "reset", "silent", "lost reply")


class Faults:
    """A WSGI application that answers as another one does, or fails on request.

    fault: one of FAULTS, or "". left: how many requests still fail; None: all. when: of which
    requests. seen: methods of the requests so far.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.seen: list[str] = []
        self.mend()

    def fail(
        self,
        fault: str,
        times: int | None = None,
        when: Callable[[dict[str, Any]], bool] = lambda environ: True,
    ) -> None:
        assert fault in FAULTS
        self._over.clear()
        self.when, self.left, self.fault = when, times, fault

    def mend(self) -> None:
        self.fault, self.left, self.when = "", None, lambda environ: True
        self._over.set()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.seen.append(environ["REQUEST_METHOD"])
            fault = self.fault if self.left != 0 and self.when(environ) else ""
            if fault and self.left:
                self.left -= 1
        if not fault:
            return self._app(environ, start)
        if fault in ANSWERS:
            status, code = ANSWERS[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Type", "application/xml")])
            text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [text.encode()]
        if fault == "lost reply":
            list(self._app(environ, lambda *arguments: None))
        elif fault == "silent":
            self._over.wait(60)
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # in place of an answer
        raise ConnectionResetError


@dataclass(frozen=True)
class Store:
    """url: `s3://NAME`."""

    url: str
    faults: Faults


@contextlib.contextmanager
def serve_store(name: str) -> Iterator[Store]:
    """A bucket on a server of its own, to which this process's environment points."""
    import boto3
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    # s3fs keeps connections by their options, of which the address in the environment is none:
    # after another server it would go on asking that one.
    S3FileSystem.clear_instance_cache()
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, True, request_handler=MotoRequestHandler)
    server.daemon_threads = True  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket=name)
        yield Store(f"s3://{name}", faults)
    faults.mend()
    server.shutdown()
    S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def serve_bucket(name: str) -> Iterator[str]:
    """`s3://NAME` on a server of its own."""
    with serve_store(name) as store:
        yield store.url
