"""Hosts for the instances that EC2 lists: each starts when it is listed and ends when it is not."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.ec2_server import METADATA, PORT, REGION, Call, Instance, ask
from tests.cluster.hosts import Host, Network, ip, network

LOOK_SECONDS = 0.5
# The one use that cluster.yaml makes of AWS's own command: `aws s3 cp [OPTION] SOURCE TARGET`.
AWS = """\
#!{python}
import sys, boto3
*_, source, target = sys.argv
place = source if target == "-" else target
bucket, _, key = place.removeprefix("s3://").partition("/")
s3 = boto3.client("s3")
if target == "-":
    s3.download_fileobj(bucket, key, sys.stdout.buffer)
else:
    s3.upload_fileobj(sys.stdin.buffer, bucket, key)
"""


class Fleet:
    """The machines of one account. hosts: by the id of their instance, also of ended ones."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.hosts: dict[str, Host] = {}
        self.socket = str(network.folder / "ec2")
        self._names: dict[str, str] = {}
        self._crashed: set[str] = set()
        self._over = threading.Event()
        self._error: BaseException | None = None
        ip(f"-n {network.user.name} addr add {METADATA}/32 dev eth0")
        self._config = f"[default]\nregion = {REGION}\noutput = json\n"
        self._config += f"endpoint_url = http://{network.user.address}:{PORT}\n"
        command = network.folder / "bin" / "aws"
        command.write_text(AWS.format(python=sys.executable))
        command.chmod(0o755)
        home = network.folder / "user" / ".aws"
        home.mkdir()
        (home / "config").write_text(self._config)
        secret = "[default]\naws_access_key_id = user\naws_secret_access_key = user\n"
        (home / "credentials").write_text(secret)
        serve = f"serve({network.user.address!r}, {self.socket!r})"
        code = f"from tests.cluster.ec2_server import serve; {serve}"
        with (network.folder / "ec2.log").open("wb") as log:
            self._server = subprocess.Popen(
                network.user.command(f"exec {sys.executable} -c {shlex.quote(code)}"),
                stdout=log,
                stderr=log,
            )
        self._thread = threading.Thread(target=self._keep, daemon=True, name="instances")

    def start(self) -> None:
        """Raises: OSError where the server does not start within a minute."""
        for _ in range(120):
            with contextlib.suppress(OSError):
                self.instances()
                self._thread.start()
                return
            time.sleep(0.5)
        raise OSError((self.network.folder / "ec2.log").read_text())

    def ask(self, what: str, *arguments: Any) -> Any:
        """See `tests.cluster.ec2_server.Cloud`."""
        return ask(self.socket, what, *arguments)

    def instances(self, state: str = "") -> list[Instance]:
        """All that there were, or those in one state: running, terminated."""
        return [i for i in self.ask("instances") if state in ("", i.state)]

    def workers(self, state: str = "running") -> list[Instance]:
        return [i for i in self.instances(state) if i.tags.get("ray-node-type") == "worker"]

    def head(self) -> Instance:
        (head,) = (i for i in self.instances() if i.tags.get("ray-node-type") == "head")
        return head

    def home(self, instance: Instance) -> Path:
        """The home of an instance's host, which outlives it."""
        return self.network.folder / self._names[instance.id]

    def calls(self, action: str) -> list[Call]:
        return [call for call in self.ask("recorded") if call.action == action]

    def crash(self, instance: Instance) -> None:
        """End all processes of an instance, which EC2 goes on listing, and billing, as running."""
        self._crashed.add(instance.id)
        self.hosts[instance.id].kill()

    def reclaim(self, instance: Instance, seconds: float) -> None:
        """What happens to a spot instance: a notice, and its end some time after it."""
        self.ask("give_notice", instance.id)
        time.sleep(seconds)
        self.ask("terminate", instance.id)

    def until(self, true: Callable[[], Any], what: str, seconds: float = 600) -> Any:
        """The first true answer. Raises: AssertionError where none comes in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._error is not None:
                raise self._error
            if answer := true():
                return answer
            time.sleep(LOOK_SECONDS)
        raise AssertionError(f"after {seconds:.0f} s: {what}; {self.instances()}")

    def end(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(60)
        self._server.kill()
        self._server.wait(30)

    def _keep(self) -> None:
        try:
            while not self._over.wait(LOOK_SECONDS):
                self._look()
        except BaseException as error:
            self._error = error

    def _look(self) -> None:
        for instance in self.instances():
            host = self.hosts.get(instance.id)
            ended = host is not None and host.init.poll() is not None
            if instance.state == "running" and host is None:
                name = f"n{len(self.hosts)}"
                files = {
                    ".aws/config": self._config,
                    ".ssh/authorized_keys": instance.key + "\n",
                    ".bashrc": "export RAY_raylet_start_wait_time_s=120\n",
                }
                self._names[instance.id] = name
                made = self.network.add(name, instance.address, files)
                self.hosts[instance.id] = made
                if instance.first:
                    made.run(f"PATH={self.network.folder}/bin:$PATH\n{instance.first}", 60)
            elif instance.state == "running" and ended and instance.id not in self._crashed:
                self.ask("shut_down", instance.id)
            elif instance.state == "terminated" and host is not None and not ended:
                host.kill()


@contextlib.contextmanager
def fleet() -> Iterator[Fleet]:
    """An account without instances. Skips the test where hosts cannot be made."""
    with network() as hosts:
        made = Fleet(hosts)
        try:
            made.start()
            yield made
        finally:
            made.end()
