"""A lease on a folder: at most one process writes into it, also on shared disks and object stores.

    with take(folder + "/lease", ours("trial 0123456789abcdef"), Observer()) as lease:
        lease.publish(folder + "/result.json", data)

Each holder owns one generation, the file `lease/GENERATION.json`, which is created only where there
is none (see `shards.support.conditional`). A heartbeat rewrites it every few seconds. It says
whether the lease was released, and whoever finds it released, or its holder gone, may create the
next generation:

- the holder's process has ended: it ran on this machine, and no process has its number and its
  time of start;
- the heartbeat has not changed for EXPIRES seconds of the observer's own monotonic clock; clocks
  of two machines are never compared;
- the caller knows that the holder is gone: it names the holder or its token.

The last two can be wrong: a process that was suspended, or cut off from the network, goes on later.
Therefore whatever a holder publishes is fenced:

- On a disk it is written into a staging folder of the holder's own and renamed. A new holder
  moves the staging folders of earlier generations away before it reads anything. rename(2) is
  atomic: what an earlier holder publishes is there before the new one starts, or is refused.
- On an object store the version of the target is read first, then it is checked that the lease
  has no later generation, and then the object is replaced on the condition that its version is
  still the same. A later holder that has published meanwhile has changed the version. Names that
  end in `lease.suffix` hold the generation, so that no two holders write the same object.

A holder that finds a later generation gets LostError.

The file `lease/GENERATION.stop` asks the holder of that generation to end soon; it is looked for
with every heartbeat.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shards.support import conditional, storage
from shards.support.processes import Process, has_ended, is_running, this_process
from shards.support.retry import briefly
from shards.support.schema import StrictModel, validated

BEAT, EXPIRES = 3.0, 30.0  # seconds
# A look at a lease that took longer met a store that did not answer, nor took any heartbeat.
SLOW_LOOK = 5.0
# How long the end of a lease waits for a heartbeat on its way. With the two requests that follow
# at worst (see `briefly`) a holder is held up for less than EXPIRES.
LAST_BEAT = 4.0


class Claim(StrictModel):
    """The content of a generation's file: who holds it.

    Attributes:
        holder: random, of each attempt to take a lease.
        beat: counts heartbeats.
        process: where the holder runs.
        since: when it was taken, UTC by the holder's clock, to be shown to people only.
        what: what the holder does, as shown to people.
        token: equal for all leases taken on behalf of one sweep; empty otherwise.
        released: whether the holder has given it back.
    """

    holder: str
    beat: int = 0
    process: Process
    since: str
    what: str
    token: str = ""
    released: bool = False

    def __str__(self) -> str:
        return f"{self.process} since {self.since} ({self.what})"


class LeaseError(RuntimeError):
    """Another process has the lease."""


class HeldError(LeaseError):
    """It was not taken: `claim` is the holder's."""

    def __init__(self, message: str, claim: Claim) -> None:
        super().__init__(message)
        self.claim = claim


class LostError(LeaseError):
    """It was held, and another process has taken it since."""


def ours(what: str, token: str = "") -> Claim:
    """A claim of this process."""
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    holder = os.urandom(6).hex()
    return Claim(holder=holder, process=this_process(), since=since, what=what, token=token)


def read_claim(location: str) -> tuple[int, Claim | None]:
    """(generation, claim) of the newest holder, released or not; (0, None) without one.

    Raises: OSError; ValueError for a file that is none of ours.
    """
    generation = _newest(location)
    if not generation:
        return 0, None
    file = _file(location, generation)
    try:
        return generation, validated(Claim, json.loads(storage.read(file)), file)
    except FileNotFoundError:  # deleted by a later holder between the two requests
        return read_claim(location)
    except json.JSONDecodeError:
        raise ValueError(f"{file}: not JSON; delete it if nothing writes there now") from None


@dataclass
class Observer:
    """Watches heartbeats by this process's monotonic clock.

    One observer may watch many leases, and should be kept between looks at them. While the store
    does not answer, no holder can write a heartbeat either: after a look that failed or took
    SLOW_LOOK seconds, `read` begins to observe anew.
    """

    expires: float = EXPIRES
    clock: Callable[[], float] = time.monotonic
    # {holder: (heartbeat at the first look, at the last one, time since which it is that)}
    _seen: dict[str, tuple[int, int, float]] = field(default_factory=dict, init=False)

    def read(self, location: str) -> tuple[int, Claim | None]:
        """As `read_claim`, for what is to be observed."""
        began, answered = self.clock(), False
        try:
            found = read_claim(location)
            answered = self.clock() - began < SLOW_LOOK
            return found
        finally:
            if not answered:
                now = self.clock()
                self._seen = {h: (first, last, now) for h, (first, last, _) in self._seen.items()}

    def expired(self, claim: Claim) -> bool:
        """Whether the heartbeat has not changed for `expires` seconds; False at the first look."""
        now = self.clock()
        first, last, since = self._seen.get(claim.holder, (claim.beat, claim.beat, now))
        since = since if last == claim.beat else now
        self._seen[claim.holder] = (first, claim.beat, since)
        return now - since >= self.expires

    def has_changed(self, claim: Claim) -> bool:
        """Whether the heartbeat has changed since the first look: the holder was alive then."""
        return claim.holder in self._seen and self._seen[claim.holder][0] != claim.beat


def request_stop(location: str) -> Claim | None:
    """Ask the present holder to end; returns its claim, None where nobody holds the lease."""
    generation, claim = read_claim(location)
    if is_free(claim):
        return None
    storage.write(storage.join(location, _stop_name(generation)), b"")
    return claim


def is_stop_requested(location: str) -> bool:
    """Whether the newest holder, at work or not, was requested to stop. Raises: OSError."""
    names = storage.names(location)
    return _stop_name(_newest_of(names)) in names


def is_free(claim: Claim | None, gone: Collection[str] = ()) -> bool:
    """Whether a lease may be taken at once. `gone`: holders and tokens known to have ended."""
    return (
        claim is None
        or claim.released
        or claim.holder in gone
        or (bool(claim.token) and claim.token in gone)
        or has_ended(claim.process)
    )


def take(
    location: str, claim: Claim, observer: Observer | None = None, gone: Collection[str] = ()
) -> Lease:
    """Take the lease in the folder `location`, without waiting.

    `observer`: what it has seen expire may be taken. Raises: HeldError; OSError.
    """
    generation, held = observer.read(location) if observer else read_claim(location)
    if held and not (is_free(held, gone) or (observer and observer.expired(held))):
        raise HeldError(f"{location}: held by {held}", held)
    return Lease.create(location, generation + 1, claim)


def wait_and_take(
    location: str,
    claim: Claim,
    gone: Collection[str] = (),
    observer: Observer | None = None,
    sleep: Callable[[float], None] = time.sleep,
    notice: Callable[[Claim], None] = lambda claim: None,
) -> Lease:
    """Take the lease; where it is held, wait until it is clear whether the holder is alive.

    A holder on this machine whose process runs is alive; of any other the heartbeat must change.
    `notice` is called once before waiting. Raises: HeldError where it is alive; OSError.
    """
    observer = observer or Observer(EXPIRES)
    noticed = False
    while True:
        try:
            return take(location, claim, observer, gone)
        except HeldError as error:
            held = error.claim
            if is_running(held.process) or observer.has_changed(held):
                raise
            if not noticed:
                notice(held)
                noticed = True
        sleep(0.25)


class Lease:
    """A lease that this process has taken. As a context it sends heartbeats, then releases it.

    Attributes:
        generation: larger than that of every earlier holder.
        suffix: for names of objects that each holder writes anew; "" on a disk, where staging
            folders do the same.
        every: seconds between two heartbeats; None: BEAT.
        stop_requested: whether a heartbeat has found a request to stop.
        lost: whether a heartbeat has found that another process has taken the lease.
    """

    every: float | None = None
    stop_requested = False
    lost = False

    def __init__(self, location: str, generation: int, claim: Claim, staging: Path | None) -> None:
        self.location, self.generation, self.claim = location, generation, claim
        self.suffix = "" if staging else f".{generation:08d}"
        self._staging = staging
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def create(cls, location: str, generation: int, claim: Claim) -> Lease:
        """Claim one generation. Raises: HeldError where another process was faster; OSError."""
        staging = None
        if storage.is_local(location):
            folder = storage.local_path(location)
            # Before the claim: a process that is suspended after it could otherwise make its
            # folder when it has been replaced already.
            staging = folder / f"{generation:08d}-{claim.holder}.staging"
            staging.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            conditional.create(_file(location, generation), _encoded(claim))
        # Read back: the reply to a request that has succeeded may have been lost, and an old
        # server may ignore the condition.
        newest, held = read_claim(location)
        if held is None or (newest, held.holder) != (generation, claim.holder):
            if staging:
                shutil.rmtree(staging, ignore_errors=True)
            if held is None:
                raise OSError(f"{location}: was deleted while the lease was taken")
            raise HeldError(f"{location}: held by {held}", held)
        _retire_earlier(location, generation)
        return cls(location, generation, claim, staging)

    # ---- holding ----

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(self.every or BEAT):
            # A heartbeat that cannot be written is missed, and the next one is tried: the lease
            # is lost only if somebody takes it, which `check` sees. An outage is not waited out:
            # the next heartbeat has to come soon after it.
            with contextlib.suppress(OSError), briefly():
                self.beat()

    def beat(self) -> None:
        """Look for a request to stop and for a later holder; write a heartbeat. Raises: OSError."""
        names = storage.names(self.location)
        self.lost = _newest_of(names) != self.generation
        self.stop_requested |= _stop_name(self.generation) in names
        if self.lost or self._ended.is_set():
            return
        self.claim = self.claim.model_copy(update={"beat": self.claim.beat + 1})
        storage.write(_file(self.location, self.generation), _encoded(self.claim))

    def release(self) -> None:
        """Give the lease back, so that the next holder need not wait. Errors are ignored."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(LAST_BEAT)
            self._thread = None
        if not self.claim.released:
            self.claim = self.claim.model_copy(update={"released": True})
            with contextlib.suppress(OSError), briefly():
                storage.write(_file(self.location, self.generation), _encoded(self.claim))
        if self._staging:
            shutil.rmtree(self._staging, ignore_errors=True)

    # ---- publishing ----

    def check(self) -> None:
        """Raises: LostError where another process has taken the lease since; OSError."""
        newest = _newest(self.location)
        if newest != self.generation:
            raise LostError(
                f"{self.location}: taken over by another process (generation {newest}, this "
                f"process has {self.generation}); nothing more is written by this one"
            )

    def publish(self, location: str, data: bytes) -> None:
        """Write a file, as `storage.write`. Raises: LostError; OSError."""
        if self._staging:
            with self._fenced():
                storage.write(location, data, self._staging)
            return
        while True:
            version = conditional.version(location)
            self.check()
            # Changed while the lease is still ours: by an earlier holder, whose request came
            # late. It is overwritten at the next attempt.
            with contextlib.suppress(conditional.ChangedError):
                conditional.replace(location, data, version)
                return

    def publish_folder(self, location: str, files: dict[str, bytes]) -> None:
        """Write a folder, as `storage.write_folder`. Raises: LostError; OSError."""
        if self._staging:
            with self._fenced():
                storage.write_folder(location, files, self._staging)
        elif location.endswith(self.suffix):  # no other holder writes there
            self.check()
            storage.write_folder(location, files)
        else:
            for name, data in files.items():
                self.publish(storage.join(location, name), data)

    def discard(self, location: str) -> None:
        """Delete a file or folder; nothing happens where there is none. Raises: as `publish`."""
        self.check()
        if self._staging is None:
            storage.delete(location)
            return
        path = storage.local_path(location)
        if path.exists():
            with self._fenced():
                path.rename(self._staging / path.name)
            storage.delete(str(self._staging / path.name))

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[None]:
        """A missing staging folder means that a later holder has moved it away."""
        assert self._staging is not None
        self.check()
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT and not self._staging.exists():
                self.check()
                raise LostError(f"{self._staging}: was removed; nothing more is written") from None
            raise


def _newest(location: str) -> int:
    """The newest generation, 0 where there is none."""
    return _newest_of(storage.names(location))


def _newest_of(names: list[str]) -> int:
    numbers = (name.removesuffix(".json") for name in names)
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _file(location: str, generation: int) -> str:
    return storage.join(location, f"{generation:08d}.json")


def _stop_name(generation: int) -> str:
    return f"{generation:08d}.stop"


def _encoded(claim: Claim) -> bytes:
    return (claim.model_dump_json() + "\n").encode()


def _retire_earlier(location: str, generation: int) -> None:
    """Move the staging folders of earlier generations away, then delete what is left of them."""
    for name in storage.names(location):
        number, _, rest = name.partition("-" if "-" in name else ".")
        if not number.isdigit() or int(number) >= generation:
            continue
        if rest.endswith(".staging"):
            folder = storage.local_path(location)
            moved = folder / f"{name}.retired"
            with contextlib.suppress(FileNotFoundError):  # by its own holder, which released it
                (folder / name).rename(moved)
            shutil.rmtree(moved, ignore_errors=True)
        elif rest.endswith(".retired"):
            shutil.rmtree(storage.local_path(location) / name, ignore_errors=True)
        else:
            storage.delete(storage.join(location, name))
