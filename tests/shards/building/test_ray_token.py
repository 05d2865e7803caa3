"""A Ray without authentication is refused. The servers are gRPC's own, and answer as Ray's do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("grpc") is None:
    pytest.skip("Ray is not installed, whose gRPC this needs", allow_module_level=True)
import grpc

from shards.building import ray_token
from shards.building.ray_token import ALIVE, check_token

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine, and no address counts as a loopback one unless it is asked."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_token, "_is_loopback", lambda address: False)


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Start a control store that asks for a token ("" asks for none), and return its address."""
    servers: list[grpc.Server] = []

    def start(token: str) -> str:
        def alive(request: bytes, context: grpc.ServicerContext) -> bytes:
            if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        service, _, method = ALIVE[1:].partition("/")
        handler = grpc.unary_unary_rpc_method_handler(alive)
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def test_an_open_one_is_refused_unless_it_is_allowed(serve: Callable[[str], str]) -> None:
    address = serve("")
    with pytest.raises(ValueError, match=f"{address} runs what anybody sends.*--allow-open-ray"):
        check_token(address, allow_open=False)
    check_token(address, allow_open=True)


def test_a_token_that_is_not_sent_or_wrong_is_one_line(
    serve: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = serve("right")
    with pytest.raises(ValueError, match="asks for a token; export RAY_AUTH_MODE=token"):
        check_token(address, allow_open=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ValueError, match="asks for another token"):
        check_token(address, allow_open=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("right\n")
    check_token(address, allow_open=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ValueError, match="asks for another token") as refused:
        check_token(address, allow_open=False)
    assert "wrong" not in str(refused.value)
    assert "right" not in str(refused.value)


def test_auto_is_the_address_that_ray_has_written(
    serve: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    check_token("auto", allow_open=False)  # there is none, which Ray says itself
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(serve(""))
    with pytest.raises(ValueError, match="asks for no token"):
        check_token("auto", allow_open=False)


def test_what_is_no_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_token, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match="does not answer as a Ray cluster does"):
            check_token(f"127.0.0.1:{port}", allow_open=True)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        *(("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True)),
        *(("ray://127.1.2.3:1", True), ("10.0.0.1:1", False), ("[fe80::1]:1", False)),
        ("head:1", False),
    ],
)
def test_which_addresses_are_this_machines_own(
    address: str, loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert ray_token._is_loopback(address) is loopback


def test_a_local_ray_is_not_started_open(monkeypatch: pytest.MonkeyPatch) -> None:
    check_token(None, allow_open=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match=r"RAY_AUTH_MODE=disabled.*--allow-open-ray"):
        check_token(None, allow_open=False)
    check_token(None, allow_open=True)
    monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
    check_token("local", allow_open=False)


RAY = """
import sys, tempfile, ray
from shards.building import ray_token
ray_token._is_loopback = lambda address: False
with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
    context = ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=folder,
                       object_store_memory=80 * 2**20, log_to_driver=False)
    try:
        ray_token.check_token(context.address_info["gcs_address"], allow_open=False)
        print("accepted")
    except ValueError as error:
        print(error)
    ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.thorough
@pytest.mark.parametrize(("mode", "said"), [("disabled", "asks for no token"), ("token", "accept")])
def test_rays_own_control_store(mode: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # for busy machines
    ran = subprocess.run(
        [sys.executable, "-c", RAY], check=False, capture_output=True, text=True, timeout=280
    )
    assert said in ran.stdout, ran.stderr
