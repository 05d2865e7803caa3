"""Kills at every call of a save, full disks, flipped bits: the newest visible one verifies."""

from __future__ import annotations

import builtins
import io
import os
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch

from shards.support import storage
from trainers.training.checkpoint import ARRAYS, MANIFEST, RECORD, Checkpoints, State

pytestmark = pytest.mark.faults

OWNER = {"student": "width:1", "lr": 0.1}
KILLED = 9
# Everything that shards.support.storage and shutil do to files comes down to these.
CALLS = ("open", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "close")


def state(step: int) -> State:
    return State(step, {"w": torch.arange(10.0) + step}, {"curve": [{"step": step}]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and what a killed save left."""
    place = tmp_path / "checkpoints"
    checkpoints = Checkpoints(str(place), OWNER)
    for step in (1, 2):
        checkpoints.save(state(step))
    shutil.copytree(place / "step-00000002", place / ".step-00000003.1.tmp")
    return place


class Deadly(io.FileIO):
    """A file whose writes are two system calls, with a chance to die before either."""

    die: staticmethod = staticmethod(lambda name: None)

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole = memoryview(data)
        half = len(whole) // 2
        for part in (whole[:half], whole[half:]):
            Deadly.die("write")
            super().write(part)
        return len(whole)


def die_at(last: int, place: Path) -> list[str]:
    """From now on, this process dies just before its call number `last` on a checkpoint path.

    Calls by file descriptor count too: a save holds no others open. Returns the calls so far.
    """
    seen: list[str] = []

    def count(name: str) -> None:
        seen.append(name)
        if len(seen) == last:
            os._exit(KILLED)

    def watched(name: str):
        real = getattr(os, name)

        def call(*args, **options):
            paths = [a for a in args if isinstance(a, str | os.PathLike)]
            if not paths or "dir_fd" in options or any(str(place) in str(p) for p in paths):
                count(name)
            return real(*args, **options)

        return call

    def opened(file, mode="r", *args, **options):
        count("open")
        return Deadly(file, mode) if "b" in mode and "w" in mode else real_open(file, mode, *args)

    real_open = builtins.open
    for name in CALLS:
        setattr(os, name, watched(name))
    Deadly.die = staticmethod(count)
    io.open = opened  # what pathlib calls
    return seen


def killed_save(place: Path, last: int, step: int) -> bool:
    """Save a step in a fork that dies at its call number `last`; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_at(last, place)
            Checkpoints(str(place), OWNER).save(state(step))
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def newest_after_kills(folder: Path, tmp_path: Path, step: int) -> list[int]:
    """The newest step that is whole, for a save of `step` killed at its 1st, 2nd, ... call."""
    found = []
    for last in range(1, 1000):
        place = tmp_path / f"at-{last}"
        shutil.copytree(folder, place)
        died = killed_save(place, last, step)
        checkpoints = Checkpoints(str(place), OWNER)
        saved = checkpoints.latest()
        assert saved is not None
        assert torch.equal(saved.arrays["w"], state(saved.step).arrays["w"])
        found.append(saved.step)
        checkpoints.save(state(4))  # and the next attempt works, and tidies up
        assert checkpoints.steps()[1:] == [4]
        assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []
        shutil.rmtree(place)
        if not died:
            break
    return found


def test_a_kill_at_any_call_of_a_save_leaves_a_whole_one(folder: Path, tmp_path: Path) -> None:
    found = newest_after_kills(folder, tmp_path, 3)
    assert sorted(found) == found  # first the old one, from some call on the new one
    assert (found[0], found[-1]) == (2, 3)
    assert len(found) > 30


def test_a_kill_while_a_step_is_saved_again_leaves_a_whole_one(
    folder: Path, tmp_path: Path
) -> None:
    """One that verifies is not touched; a damaged one is replaced, the one before it stays."""
    whole = folder / "step-00000002" / ARRAYS
    inode = whole.stat().st_ino
    assert set(newest_after_kills(folder, tmp_path, 2)) == {2}
    Checkpoints(str(folder), OWNER).save(state(2))
    assert whole.stat().st_ino == inode
    whole.write_bytes(whole.read_bytes()[:-1])
    found = newest_after_kills(folder, tmp_path, 2)
    assert sorted(found) == found
    assert (found[0], found[-1]) == (1, 2)
    assert len(found) > 30


def test_the_shim_sees_every_kind_of_call(folder: Path) -> None:
    """Else the test above would prove little: strace shows the same calls."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = die_at(10_000, folder)
        Checkpoints(str(folder), OWNER).save(state(3))
        os.write(writing, " ".join(seen).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    seen = os.read(reading, 100_000).decode().split()
    os.close(reading)
    os.close(writing)
    assert {"open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"} <= set(seen)
    assert seen.count("write") == 6  # three files, each in two parts
    assert seen.count("fsync") == 5  # the files, their folder, and the one around it
    assert seen.count("rename") == 1
    assert seen.count("unlink") == 6  # three of the oldest, three that a killed save left


@pytest.mark.parametrize("limit", [10, 200, 450])
def test_a_full_disk_keeps_the_old_and_leaves_nothing(folder: Path, limit: int) -> None:
    checkpoints = Checkpoints(str(folder), OWNER)
    checkpoints.save(state(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    big = State(9, {"w": torch.zeros(100)}, {"curve": list(range(100))})
    try:
        with pytest.raises(OSError, match=r"no space to write .*bytes needed.*bytes free"):
            checkpoints.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000003"]
    saved = checkpoints.latest()
    assert saved is not None
    assert saved.step == 3


@pytest.mark.parametrize("at", range(1, 6))
def test_a_save_that_breaks_off_is_never_visible(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At its 1st to 5th fsync; KeyboardInterrupt stands for a sudden end inside the process."""
    checkpoints = Checkpoints(str(folder), OWNER)
    calls, real = 0, storage.os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(storage.os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state(9))
    monkeypatch.undo()
    saved = checkpoints.latest()
    assert saved is not None
    assert saved.step == (2 if at < 5 else 9)  # the fifth comes after the rename


def test_a_thousand_flips_and_cuts_are_all_seen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random single bits, cuts anywhere, and 512-byte blocks lost, over all three files."""
    checkpoints = Checkpoints(str(folder), OWNER)
    place, rng = folder / "step-00000002", random.Random(0)
    whole = {name: (place / name).read_bytes() for name in (ARRAYS, RECORD, MANIFEST)}
    for _ in range(1000):
        name = rng.choice(list(whole))
        data, kind = bytearray(whole[name]), rng.choice(("flip", "cut", "block"))
        at = rng.randrange(len(data))
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[at:]
        else:
            del data[at : at + 512]
        (place / name).write_bytes(data)
        saved = checkpoints.latest()
        assert saved is not None
        assert saved.step == 1, (name, kind, at)
        (place / name).write_bytes(whole[name])
    saved = checkpoints.latest()
    assert saved is not None
    assert saved.step == 2
    assert capsys.readouterr().err.count("warning: checkpoint skipped") == 1000
