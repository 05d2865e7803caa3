"""A Python process that has imported modules, and forks itself where a new one would import them.

Importing torch and all that a trial needs takes seconds of CPU time; a fork takes milliseconds. The
process has one thread and uses no GPU before it forks, so that its children are as good as new
ones. Linux only, like the protection in `child_process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from shards.support.child_process import child_command

STARTED, ENDED = "@started ", "@ended "  # lines of its own, among those of its children
# What it runs. A child leaves the loop, and runs the code that it is given as `python -c` would.
# It dies with its parent, as its parent does with ours; see child_process for 1 and the heartbeat.
_SERVER = f"""\
import importlib, json
for _module in sys.argv[1:]:
    try:
        importlib.import_module(_module)
    except ImportError:
        pass  # whoever needs it says so
_parent = os.getpid()
# They are for its child, which saves its state; one that comes before it listens waits for that.
_handlers = {{n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}}
while True:
    _line = sys.stdin.readline()
    if not _line:
        sys.exit()
    _job = json.loads(_line)
    signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)
    _child = os.fork()
    if not _child:
        break
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _handlers)
    _status = os.waitstatus_to_exitcode(os.waitpid(_child, 0)[1])
    print("\\n" + {ENDED!r} + str(_status), flush=True)  # its last line may have no end
# By the child itself: its parent might say so in the middle of a line of the child.
print("\\n" + {STARTED!r} + str(os.getpid()), flush=True)
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
ctypes.CDLL(None).prctl(15, _job["name"].encode())  # PR_SET_NAME, as `ps` and `top` show it
if os.getppid() != _parent:
    sys.exit("the parent process has ended")
for _number, _handler in _handlers.items():
    signal.signal(_number, _handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, _handlers)
for _number, _file, _mode in ((0, _job["input"], os.O_RDONLY), (2, _job["log"], os.O_WRONLY)):
    os.dup2(os.open(_file, _mode), _number)
sys.stdin = open(0, closefd=False)
os.environ.clear()
os.environ.update(_job["environment"])
sys.argv = ["-c", *_job["arguments"]]
_heartbeat = _job["heartbeat"]
threading.Thread(target=_beat, daemon=True).start()
exec(compile(_job["code"], "<string>", "exec"), {{"__name__": "__main__"}})
"""


class WarmChild:
    """A child: the methods of `subprocess.Popen` that are needed.

    Attributes:
        returncode: its exit status, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> None:
        self.ended.wait()

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class WarmProcess:
    """Starts one child at a time.

    modules: imported at once, while nobody waits. on_line: called in a thread, with each line that
    a child writes to its standard output.
    The thread that makes it must live as long as it does, see `child_process`.
    """

    def __init__(self, modules: Sequence[str], on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._process = subprocess.Popen(
            child_command(_SERVER, modules),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._changed = threading.Condition()
        self._child: WarmChild | None = None
        self._gone = False
        threading.Thread(target=self._read, daemon=True).start()

    def start(
        self,
        code: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        files: dict[str, Path],
        name: str,
    ) -> WarmChild:
        """Run `code` in a child, which finds `arguments` in `sys.argv[1:]`.

        environment: all of its variables. files: `input`, its standard input; `log`, an existing
        file for its standard error; `heartbeat`, see `child_command`. name: of the process, at most
        15 characters: its command line is that of its parent.
        Raises: RuntimeError where the process has ended.
        """
        job = {"code": code, "arguments": list(arguments), "environment": environment, "name": name}
        job |= {name: str(path) for name, path in files.items()}
        assert self._process.stdin is not None
        with self._changed:
            self._child = None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
            self._changed.wait_for(lambda: self._child or self._gone)
            if self._child is None:
                raise RuntimeError("the process from which ranks are forked has ended")
            return self._child

    def alive(self) -> bool:
        return not self._gone

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(STARTED):
                self._begin(WarmChild(int(line[len(STARTED) :])))
            elif line.startswith(ENDED):
                code = int(line[len(ENDED) :])
                if self._child is not None:
                    self._end(self._child, code)
                else:  # it was killed before it could say its process id
                    child = WarmChild(0)
                    self._end(child, code)
                    self._begin(child)
            else:
                self._on_line(line)
        # It was killed, and the kernel has killed its child with it.
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        if self._child is not None:
            self._end(self._child, -signal.SIGKILL)

    def _begin(self, child: WarmChild) -> None:
        with self._changed:
            self._child = child
            self._changed.notify_all()

    @staticmethod
    def _end(child: WarmChild, code: int) -> None:
        if child.returncode is None:
            child.returncode = code
            child.ended.set()
