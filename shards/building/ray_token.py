"""Whether a Ray cluster asks for a token, and whether this process has the right one.

Ray runs whatever it is sent, and its control store listens on every interface. Without token
authentication everybody who reaches it can run code on every node (CVE-2023-48022). A client that
has a token cannot tell: a cluster without authentication ignores it. So a request without one is
sent.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import grpc  # with Ray, whose processes speak it

ALLOW = "--allow-open-ray"
ANSWER_SECONDS = 15.0
# Calls that change nothing: to the control store, and to the server of ray:// clients.
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
CLIENT = "/ray.rpc.RayletDriver/ListNamedActors"


def check_token(address: str | None, allow_open: bool) -> None:
    """Check that the Ray at `address` runs nothing for those without its token.

    address: HOST:PORT, ray://HOST:PORT or auto; None: a Ray that this process starts. Of a loopback
    address nothing is sent. allow_open: accept a Ray without authentication.

    Raises: ValueError where it asks for no token, or for one that this process does not have.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if address in (None, "local"):
        if mode not in ("", "token") and not allow_open:
            raise ValueError(
                f"RAY_AUTH_MODE={mode}: the Ray started here would run what anybody sends who "
                f"reaches this machine; unset RAY_AUTH_MODE, or give {ALLOW}"
            )
        return
    found = _current() if address == "auto" else address
    if found is None or _is_loopback(found):
        return
    if _answers(found, None):
        if not allow_open:
            raise ValueError(
                f"--address: the Ray at {found} runs what anybody sends who reaches it, for it "
                f"asks for no token; start it with RAY_AUTH_MODE=token, or give {ALLOW}"
            )
    elif mode != "token":
        raise ValueError(
            f"--address: the Ray at {found} asks for a token; export RAY_AUTH_MODE=token"
        )
    elif not _answers(found, _token()):
        raise ValueError(
            f"--address: the Ray at {found} asks for another token than the one in "
            "RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token"
        )


def _current() -> str | None:
    """The address that `auto` stands for, as Ray finds it; None where there is none."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # as Ray
    file = Path(folder, "ray", "ray_current_cluster")
    return file.read_text().strip() if file.is_file() else None


def _is_loopback(address: str) -> bool:
    host = address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token() -> str:
    """The token that Ray would send from this process; empty where it has none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path) if path else Path.home() / ".ray" / "auth_token"
    return file.read_text().strip() if file.is_file() else ""


def _answers(address: str, token: str | None) -> bool:
    """Whether the Ray at `address` serves one who has `token`. Raises: ValueError."""
    call = CLIENT if address.startswith("ray://") else ALIVE
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
        try:
            channel.unary_unary(call)(b"", timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
            if code == grpc.StatusCode.UNAUTHENTICATED:
                return False
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ValueError(
                    f"--address: {address} does not answer as a Ray cluster does ({code.name}); "
                    "correct the address, or start Ray there"
                ) from None
    return True
