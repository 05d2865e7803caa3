"""The watchdog of a worker, with a real socket as the head's control store."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweep.cluster import main
from sweep.clusters.watchdog import watch

pytestmark = pytest.mark.cluster


def test_it_waits_while_the_head_answers_and_acts_once_it_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        code = "from sweep.clusters.watchdog import watch; import sys; "
        code += f"sys.exit(watch({address!r}, 0.02, ['touch', {str(gone)!r}], every=0.1))"
        child = subprocess.Popen([sys.executable, "-c", code])
        for _ in range(20):
            head.accept()[0].close()  # one look each, so more than 0.02 minutes pass
        assert child.poll() is None
        assert not gone.exists()
    start = time.monotonic()
    assert child.wait(timeout=30) == 0
    assert gone.exists()
    assert time.monotonic() - start > 1.0


def test_the_status_of_its_command_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = ["--", sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(SystemExit) as ended:
        main(["watch", f"127.0.0.1:{port}", "--minutes", "0", *command])
    assert ended.value.code == 3
    assert f"nothing has answered at 127.0.0.1:{port} for 0 minutes" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["", "host", "host:", "host:x", "host:70000", ":6379"])
def test_an_address_without_a_port_is_refused(head: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        watch(head, 0.0, ["true"])
