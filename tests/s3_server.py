"""A bucket on a real server of the S3 protocol, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def serve_bucket(name: str) -> Iterator[str]:
    """`s3://NAME` on a server of its own, to which this process's environment points."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    # s3fs keeps connections by their options, of which the address in the environment is none:
    # after another server it would go on asking that one.
    S3FileSystem.clear_instance_cache()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"
    server.stop()
    S3FileSystem.clear_instance_cache()
