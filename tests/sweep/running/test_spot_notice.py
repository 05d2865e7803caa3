"""The notice that a cloud gives before it takes a machine, from a local server or a command."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray
from ray._private.state import state

from shards.building.ray_connection import connected
from sweep.running import leaving, spot_notice
from sweep.running.spot_notice import CLOUDS, Source, SpotNotice


class Metadata(BaseHTTPRequestHandler):
    """Stands for a cloud's metadata service: a notice, once `given`, for those with the token."""

    given = False
    token = ""

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/token" else 404, "secret")

    def do_GET(self) -> None:
        if self.path == "/garbage":
            self.wfile.write(b"not HTTP\r\n")
        elif self.path == "/preempted":
            self._answer(200, "TRUE" if self.given else "FALSE")
        elif self.token and self.headers.get("X-aws-ec2-metadata-token") != self.token:
            self._answer(401)
        else:
            self._answer(200 if self.given else 404)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Metadata, "given", False)
    monkeypatch.setattr(Metadata, "token", "")
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("cloud", ["plain", "aws", "gcp"])
def test_a_notice_is_seen_when_it_is_given(
    place: str, cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place + "/notice"
    if cloud == "aws":
        monkeypatch.setattr(Metadata, "token", "secret")
        monkeypatch.setitem(CLOUDS, "aws", Source(source, token=place + "/token"))
    elif cloud == "gcp":
        monkeypatch.setitem(CLOUDS, "gcp", Source(place + "/preempted", text=CLOUDS["gcp"].text))
    notice = SpotNotice(source if cloud == "plain" else cloud)
    assert not notice.given()
    monkeypatch.setattr(Metadata, "given", True)
    assert notice.given()


def test_no_server_and_one_that_speaks_otherwise_give_none(place: str) -> None:
    assert not SpotNotice(place + "/garbage").given()
    assert not SpotNotice("http://127.0.0.1:9/").given()
    assert not SpotNotice("/no/such/command").given()


def test_a_command_gives_it_by_its_exit_status(tmp_path: Path) -> None:
    file = tmp_path / "notice"
    notice = SpotNotice(f"test -e {file}")
    assert not notice.given()
    file.touch()
    assert notice.given()


def test_a_slow_command_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_notice, "ANSWER_SECONDS", 0.2)
    assert not SpotNotice(f"{sys.executable} -c 'import time; time.sleep(5)'").given()


def test_trials_of_the_machine_leave_and_it_takes_no_new_ones(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained = []
    monkeypatch.setattr(leaving, "_requested", threading.Event())
    monkeypatch.setattr(leaving, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(leaving, "drain_this_node", drained.append)
    monkeypatch.setattr(leaving.channel, "is_leave_requested", lambda sweep, node: False)
    monkeypatch.setattr(Metadata, "given", True)

    class Context:
        def get_node_id(self) -> str:
            return "this node"

    monkeypatch.setattr(leaving.ray, "get_runtime_context", Context)
    assert not leaving.requested()
    left: list[bool] = []
    leaving._look("sweep", SpotNotice(place + "/notice"), lambda: left.append(True))
    assert leaving.requested()
    assert left == [True]
    assert drained == ["this node"]


class Trial:
    """Occupies a core."""


@pytest.mark.ray
def test_ray_is_told_that_the_node_ends_soon() -> None:
    with connected(None, "spot-notice", cpus=1, store=80 * 1024 * 1024):
        node = ray.get_runtime_context().get_node_id()
        trial = ray.remote(num_cpus=1)(Trial).remote()
        ray.get(trial.__ray_ready__.remote())  # a node on which nothing runs would end at once
        assert node not in state.get_draining_nodes()
        spot_notice.drain_this_node(node)
        end = time.monotonic() + 30
        while node not in state.get_draining_nodes() and time.monotonic() < end:
            time.sleep(0.1)
        end_ms = state.get_draining_nodes()[node]
    assert 0 < end_ms / 1000 - time.time() < spot_notice.DEADLINE
