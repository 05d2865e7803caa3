"""Hosts on one machine: network namespaces with an address, an sshd, a home and processes each.

Nothing outside sees them, and they see nothing outside but the disk, which is one for all, as a
shared file system would be. The first namespace is that of the machine in front of which the user
sits: it has the bridge to which the others are connected, and no sshd.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK, USER = "10.78.0", 254
NEEDED = ("ip", "unshare", "nsenter", "ssh-keygen", "rsync", "tmux")
SSHD = "/usr/sbin/sshd"
UNSHARE = "unshare -m -u -p -f --mount-proc --kill-child"


def ip(arguments: str) -> None:
    """`ip ARGUMENTS`. Raises: CalledProcessError."""
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


class Host:
    """One host, or the user's machine. init: the process whose death ends the host."""

    def __init__(self, name: str, address: str, home: Path, init: subprocess.Popen[bytes]) -> None:
        self.name, self.address, self.home, self.init = name, address, home, init

    def command(self, script: str) -> list[str]:
        """What runs a shell script inside, with the host's own home and processes."""
        first = _children(self.init.pid)[0]
        inside = ["nsenter", "-t", str(first), "-n", "-m", "-p", "-u"]
        path = f"PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        inside += ["env", "-i", f"HOME={self.home}", path]
        return [*inside, "TERM=xterm", "LANG=C.UTF-8", "bash", "-c", f"cd {ROOT}\n{script}"]

    def run(self, script: str, seconds: float = 600) -> str:
        """Run a shell script inside; what it wrote. Raises: AssertionError where it fails."""
        ran = subprocess.run(
            self.command(script), check=False, capture_output=True, text=True, timeout=seconds
        )
        assert ran.returncode == 0, f"{script}\n{ran.stdout[-6000:]}\n{ran.stderr[-6000:]}"
        return ran.stdout

    def reaches(self, address: str, port: int) -> bool:
        script = f": < /dev/tcp/{address}/{port}"
        ran = subprocess.run(self.command(script), check=False, capture_output=True)
        return ran.returncode == 0

    def cut(self) -> None:
        """Pull its cable: no packet arrives, and no connection is reset."""
        ip(f"-n {self.name} link set eth0 down")

    def kill(self) -> None:
        """End all its processes at once, as when a machine is taken away."""
        for child in _children(self.init.pid):
            os.kill(child, signal.SIGKILL)
        self.init.wait(30)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


class Network:
    """Hosts that reach each other. folder: of their homes and of what they share, not in /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self._prefix = f"d{os.getpid()}-"
        self._spaces: list[str] = []
        self._write_tools()

    def add_user(self) -> None:
        """The machine in front of which the user sits, to which the others are connected."""
        self.user = self.add("user", USER)

    def add(self, name: str, at: int | str, files: Mapping[str, str] | None = None) -> Host:
        """A new host, with an sshd that lets the folder's key in.

        at: its address, or a number for NETWORK.number. files: {path in its home: text}.

        Raises: CalledProcessError; OSError with what its first process wrote.
        """
        address = at if isinstance(at, str) else f"{NETWORK}.{at}"
        home, space = self.folder / name, self._prefix + name
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".bashrc").write_text(f"export PATH={self.folder}/bin:$PATH\n")
        (home / ".bash_profile").write_text(". ~/.bashrc\n")
        for source, target in (("key.pub", "authorized_keys"), ("key", "key")):
            shutil.copy(self.folder / source, home / ".ssh" / target)
        for path, text in (files or {}).items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            with (home / path).open("a") as stream:
                stream.write(text)
        is_user = name == "user"
        self._spaces.append(space)
        ip(f"netns add {space}")
        ip(f"-n {space} link set lo up")
        if is_user:
            ip(f"-n {space} link add eth0 type bridge")
        else:
            ip(f"-n {self.user.name} link add to-{name} type veth peer name eth0 netns {space}")
            ip(f"-n {self.user.name} link set to-{name} master eth0 up")
        ip(f"-n {space} addr add {address}/24 dev eth0")
        ip(f"-n {space} link set eth0 up")
        # Ray finds a machine's own address by its way out; without one it takes 127.0.0.1.
        ip(f"-n {space} route add default dev eth0")
        (home / "sshd_config").write_text(
            f"ListenAddress {address}\nHostKey {self.folder}/key\nPidFile none\nUsePAM no\n"
            "PermitRootLogin yes\nStrictModes no\nMaxStartups 100\n"
        )
        stay = "sleep infinity" if is_user else f"{SSHD} -D -e -f {home}/sshd_config"
        lines = [f"hostname {name}", "mount --make-rprivate /", *_own_tmp(home)]
        lines += ["mount -t tmpfs -o size=600m tmpfs /dev/shm", "mkdir -p /run/sshd"]
        lines += [f"mount --bind {self.folder}/passwd /etc/passwd"]
        lines += [f"mount --bind {home} {self.folder}/home", f"exec {stay}"]
        with (home / "init.log").open("wb") as log:
            init = subprocess.Popen(
                [*f"ip netns exec {space} {UNSHARE} bash -ec".split(), "\n".join(lines)],
                stdout=log,
                stderr=log,
            )
        host = self.hosts[name] = Host(space, address, self.folder / "home", init)
        while init.poll() is None:
            if _children(init.pid) and (is_user or self.user.reaches(address, 22)):
                return host
            time.sleep(0.2)
        raise OSError((home / "init.log").read_text())

    def _write_tools(self) -> None:
        """A key, and a `python3` whose environments have what this one has, without a network."""
        tools = self.folder / "bin"
        tools.mkdir(parents=True)
        key = str(self.folder / "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        (self.folder / "home").mkdir()
        users = [
            line for line in Path("/etc/passwd").read_text().splitlines() if ":0:0:" not in line
        ]
        names = [f"{name}:x:0:0:{name}:{self.folder}/home:/bin/bash" for name in ("root", "ubuntu")]
        (self.folder / "passwd").write_text("\n".join([*names, *users, ""]))
        (self.folder / "pip.conf").write_text(
            "[global]\nno-index = true\nno-deps = true\nno-build-isolation = false\n"
        )
        site = next(path for path in sys.path if path.endswith("site-packages"))
        python = os.path.realpath(sys.executable)
        (tools / "python3").write_text(
            textwrap.dedent(f"""\
                #!/bin/bash
                [[ "$1 $2" == "-m venv" ]] || exec {python} "$@"
                {python} -m venv --without-pip "$3"
                echo {site} > $(echo "$3"/lib/python3*/site-packages)/all.pth
                for tool in pip:pip._internal.cli.main:main ray:ray.scripts.scripts:main; do
                  IFS=: read name module function <<< $tool
                  {{ echo "#!$3/bin/python"
                    [[ $name == pip ]] && echo "import os; os.environ['PIP_CONFIG_FILE'] =\\
                      '{self.folder}/pip.conf'"
                    echo "import sys; from $module import $function; sys.exit($function())"
                  }} > "$3/bin/$name"
                  chmod +x "$3/bin/$name"
                done
                """)
        )
        # What a cloud's image has: users who may do everything, packages, and an end by command.
        (tools / "sudo").write_text('#!/bin/bash\nexec env "$@"\n')
        (tools / "apt-get").write_text('#!/bin/bash\necho "apt-get $*" >> ~/apt.log\n')
        (tools / "shutdown").write_text("#!/bin/bash\nkill -TERM 1\n")
        # `systemd-run --on-active=SECONDS COMMAND ...`
        (tools / "systemd-run").write_text(
            "#!/bin/bash\nseconds=${1#--on-active=}; shift\n"
            '(sleep "$seconds" && "$@") < /dev/null > /dev/null 2>&1 &\n'
        )
        for tool in tools.iterdir():
            tool.chmod(0o755)

    def end(self) -> None:
        for host in self.hosts.values():
            host.init.kill()
            host.init.wait(30)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _own_tmp(home: Path) -> list[str]:
    """Commands that make /tmp a folder of the host, in which this project can still be seen."""
    lines = [f"mkdir {home}/tmp"]
    for path in {str(ROOT), sys.prefix, sys.base_prefix}:
        if path.startswith("/tmp/"):
            inside = f"{home}{path}"
            lines += [f"mkdir -p {inside}", f"mount --bind {path} {inside}"]
    return [*lines, f"mount --rbind {home}/tmp /tmp", "chmod 1777 /tmp"]


@contextmanager
def network() -> Iterator[Network]:
    """A network with the user's machine alone. Skips the test where that cannot be made."""
    missing = [tool for tool in (*NEEDED, SSHD) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"this system lacks {', '.join(missing)}, which hosts in namespaces need")
    allowed = [
        "unshare",
        "-n",
        "-m",
        "-p",
        "-u",
        "-f",
        "--mount-proc",
        "mount",
        "--make-rprivate",
        "/",
    ]
    if subprocess.run(allowed, check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody make network namespaces")
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
    made = Network(folder)
    try:
        made.add_user()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)
