"""The process that builds a bank, whose memory is free again when it ends.

The first one may begin before it is known what to build: it imports torch and the teacher's
library, which takes seconds, while the sweep does the like: `ready_to_build`. Nothing that this
module imports needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence

from shards.support.child_process import child_command, run_module
from shards.support.registry import split_spec
from shards.support.retry import answers

BUILD = "shards.build"
PREPARED = "shards.support.prepared"
# {name of a teacher: module that opens it}
TEACHERS = {
    "embedded": "shards.teachers.clip",
    "open_clip": "shards.teachers.clip",
    "timm": "shards.teachers.timm_models",
}

_ready: list[subprocess.Popen[str]] = []  # at most one, inside `ready_to_build`


@contextlib.contextmanager
def ready_to_build(teachers: Iterable[str]) -> Iterator[None]:
    """Inside, the first `start_build` on this machine finds a process that imports already.

    teachers: specs of those that will be needed. The thread that enters must live as long as the
    build, see `shards.support.child_process`.
    """
    names = {split_spec(spec)[0] for spec in teachers}
    modules = sorted({TEACHERS[name] for name in names & TEACHERS.keys()})
    process = _start(PREPARED, [BUILD, *modules], stdin=subprocess.PIPE, stderr=None)
    _ready.append(process)
    try:
        yield
    finally:
        if process in _ready:
            _ready.remove(process)
            process.kill()
            process.communicate()


def start_build(arguments: Sequence[str], through_pipe: bool = False) -> subprocess.Popen[str]:
    """Start `python -m shards.build ARGUMENTS` in a process that ends when this one does.

    through_pipe: whether its `stderr` is read by this process.
    """
    if _ready and not through_pipe:
        process = _ready.pop()
        with contextlib.suppress(BrokenPipeError):  # it has been killed
            assert process.stdin is not None
            with process.stdin as pipe:
                pipe.write(json.dumps(list(arguments)) + "\n")
            return process
        process.wait()
    stderr = subprocess.PIPE if through_pipe else None
    return _start(BUILD, arguments, stdin=None, stderr=stderr)


def _start(
    module: str, arguments: Sequence[str], stdin: int | None, stderr: int | None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        child_command(run_module(module), arguments),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=os.environ | answers(),
        text=True,
        errors="replace",
    )
