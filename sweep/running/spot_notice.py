"""The notice that a cloud gives before it takes a spot machine away.

No part of Ray looks for it: every worker process does, for its own machine, every few seconds.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException

import ray
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.core.generated.autoscaler_pb2 import (
    DRAIN_NODE_REASON_PREEMPTION,  # pyright: ignore[reportAttributeAccessIssue]
)

ANSWER_SECONDS = 2.0
DEADLINE = 100  # seconds; a notice comes 120 s (AWS) or 30 s (Google) before the end
TOKEN = "http://169.254.169.254/latest/api/token"  # AWS answers only with a token


@dataclass(frozen=True)
class Source:
    """Where a notice is.

    Attributes:
        url: that is requested. It answers 404 while there is no notice.
        headers: of the request.
        text: what the answer contains where there is a notice; any answer will do if empty.
        token: URL that gives the token of AWS, empty elsewhere.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    token: str = ""


CLOUDS = {
    "aws": Source("http://169.254.169.254/latest/meta-data/spot/instance-action", token=TOKEN),
    "gcp": Source(
        "http://metadata.google.internal/computeMetadata/v1/instance/preempted",
        {"Metadata-Flavor": "Google"},
        "TRUE",
    ),
}


class SpotNotice:
    """Looks for the notice of this machine.

    source: `aws`, `gcp`, an http URL that answers with status 200 once there is a notice, or a
    command that then ends with status 0.
    """

    def __init__(self, source: str) -> None:
        self._command: list[str] = []
        is_url = source.startswith(("http://", "https://"))
        self._source = CLOUDS.get(source) or (Source(source) if is_url else None)
        if self._source is None:
            self._command = shlex.split(source)

    def given(self) -> bool:
        """Whether the machine is to be taken away. An answer that does not come is none."""
        try:
            return self._run() if self._source is None else self._read(self._source)
        except (OSError, HTTPException, subprocess.TimeoutExpired):  # urllib's own are OSErrors
            return False

    def _run(self) -> bool:
        ran = subprocess.run(
            self._command, check=False, capture_output=True, timeout=ANSWER_SECONDS
        )
        return ran.returncode == 0

    def _read(self, source: Source) -> bool:
        headers = dict(source.headers)
        if source.token:
            life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            asking = urllib.request.Request(source.token, headers=life, method="PUT")
            with urllib.request.urlopen(asking, timeout=ANSWER_SECONDS) as answer:
                headers["X-aws-ec2-metadata-token"] = answer.read().decode()
        request = urllib.request.Request(source.url, headers=headers)
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status == 200 and source.text in answer.read().decode(errors="replace")


def drain_this_node(node: str) -> None:
    """Let Ray place nothing more on this node, which ends soon; errors are ignored.

    What `ray drain-node` does, which takes seconds to start on a machine that has few left.
    """
    end = int(1000 * (time.time() + DEADLINE))
    with contextlib.suppress(Exception):  # Ray's own are of several kinds, for a head that is gone
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        client.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, "spot notice", end)
