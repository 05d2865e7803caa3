"""Processes that are forked from a warm one: their start and end are seen, whatever they write."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from shards.support import warm_process
from shards.support.warm_process import WarmProcess

pytestmark = pytest.mark.ranks


def test_lines_without_an_end_hide_neither_start_nor_end(tmp_path: Path) -> None:
    lines: list[str] = []
    before = set(psutil.Process().children())
    server = WarmProcess(["fractions"], lines.append)
    files = {name: tmp_path / name for name in ("input", "log", "heartbeat")}
    for file in files.values():
        file.touch()

    def run(code: str) -> int | None:
        child = server.start(code, [], dict(os.environ), files, "rank 0:1")
        child.wait()
        return child.returncode

    (forking,) = set(psutil.Process().children()) - before
    for _ in range(100):  # the first bytes of a child come at any time after the fork
        assert run("import os; os.write(1, b'one')") == 0
        assert run("import os; os.write(1, b'two'); os.kill(os.getpid(), 9)") == -9
    forking.kill()  # as the end of an actor does
    forking.wait()
    assert [line.strip() for line in lines if line.strip()] == ["one", "two"] * 100


def test_a_child_that_ends_before_it_says_so_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "sys.stdin.readline(); print('\\n@ended -9', flush=True); sys.stdin.readline()"
    monkeypatch.setattr(warm_process, "_SERVER", code)
    before = set(psutil.Process().children())
    server = WarmProcess([], lambda line: None)
    child = server.start("", [], {}, {}, "rank 0:1")
    child.wait()
    assert child.returncode == -9
    (forking,) = set(psutil.Process().children()) - before
    forking.kill()
    forking.wait()
