"""One sweep at a time on a store, unless a second one joins it: the lease STORE/sweep-lease.

It is taken before torch, Ray and MLflow are imported, so that a second sweep is refused at once;
hence nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shards.support import storage
from shards.support.command import without_password
from shards.support.lease import (
    EXPIRES,
    Claim,
    HeldError,
    LeaseError,
    Observer,
    is_free,
    is_stop_requested,
    ours,
    read_claim,
    take,
    wait_and_take,
)
from shards.support.processes import is_running, this_process
from shards.support.retry import briefly

FOLDER = "sweep-lease"
_TAKEN: set[str] = set()  # holders of the leases that this program has taken since its start
BEAT = 1.25  # seconds; two looks that far apart show whether a sweep on another machine is alive


@dataclass(frozen=True)
class Hold:
    """A sweep's right to work on a store.

    Attributes:
        token: of the leases of its trials. A sweep that follows another one on a store has the
            same token, and so takes the trials over that the earlier one has left.
        joined: whether another sweep holds the store, and this one works beside it.
        stop_requested: whether the sweeps on the store are to end, see `sweep.stop`. Raises:
            OSError.
    """

    token: str
    joined: bool
    stop_requested: Callable[[], bool]


@contextlib.contextmanager
def holding(store: str, argv: list[str], join: bool) -> Iterator[Hold]:
    """Hold `store` for the sweep `python -m sweep.run ARGV`, or `join` the one that holds it.

    Raises: ValueError naming the sweep that holds it, where this one is not to join; OSError.
    """
    place = storage.join(store, FOLDER)
    # It is written into the store and shown to others: no password of a tracking URI.
    what = shlex.join(["python", "-m", "sweep.run", *map(without_password, argv)])
    with _one_line(store):
        _, before = read_claim(place)
        claim = ours(what, before.token if before else os.urandom(6).hex())
        lease = held = None
        # A command that has replaced itself (see sweep.running.restart) finds the claim of this
        # process, and it is not one of those that this program has taken since.
        replaced = before and before.process == this_process() and before.holder not in _TAKEN
        own = (before.holder,) if before and replaced else ()
        try:
            lease = wait_and_take(place, claim, own, notice=_say)
        except HeldError as error:
            held = error.claim
    if lease is None:
        if not join:
            raise ValueError(
                f"{store}: a sweep works on it: {held}; wait for it to end, or add --join to work "
                "off the same trials beside it"
            )
        print(f"joins the sweep of {held}", file=sys.stderr)
        claim = ours(what, os.urandom(6).hex())
        with _following(place, claim):
            yield Hold(claim.token, True, lambda: is_stop_requested(place))
        return
    lease.every = BEAT
    _TAKEN.add(claim.holder)
    try:
        with lease:
            yield Hold(claim.token, False, lambda: lease.stop_requested)
    finally:
        _remove_unused(store)


def check_idle(store: str) -> None:
    """Check that no sweep works on the store; one of another machine gets EXPIRES to show that.

    Raises: ValueError naming the sweep that does; OSError.
    """
    place, observer, said = storage.join(store, FOLDER), Observer(), False
    while True:
        _, claim = observer.read(place)
        if claim is None or is_free(claim) or observer.expired(claim):
            return
        if is_running(claim.process) or observer.has_changed(claim):
            raise ValueError(
                f"{store}: a sweep works on it, and uploads by itself: {claim}; wait for it to end"
            )
        if not said:
            _say(claim)
            said = True
        time.sleep(0.25)


@contextlib.contextmanager
def _following(place: str, claim: Claim) -> Iterator[None]:
    """Inside the block, take the lease at `place` for this sweep once its holder has ended.

    Otherwise a third sweep would find the store free, and work beside this one unasked.
    """
    over, observer, taken = threading.Event(), Observer(), []
    _TAKEN.add(claim.holder)  # before it can be read

    def look() -> None:
        while not taken and not over.wait(BEAT):
            # Another time; an outage is not waited out, because the sweep may end meanwhile.
            with contextlib.suppress(LeaseError, OSError, ValueError), briefly():
                if is_stop_requested(place):
                    return  # of this sweep too, which would not see it in a new generation
                taken.append(take(place, claim, observer))
                taken[0].every = BEAT
                taken[0].__enter__()

    thread = threading.Thread(target=look, daemon=True, name="following")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for lease in taken:
            lease.release()


def _remove_unused(store: str) -> None:
    """Remove a folder that was made for the lease alone, as for a grid with a mistake in it."""
    if storage.is_local(store) and storage.names(store) == [FOLDER]:
        storage.delete(store)


@contextlib.contextmanager
def _one_line(store: str) -> Iterator[None]:
    """Errors of a store that cannot be written name it. Raises: ValueError."""
    try:
        yield
    except OSError as error:
        if not storage.is_local(store):
            raise
        raise ValueError(f"store {store}: not writable ({error.strerror})") from None


def _say(claim: Claim) -> None:
    print(
        f"{claim.process} has worked on this store since {claim.since} ({claim.what}); waiting up "
        f"to {EXPIRES:g} s for a sign of life",
        file=sys.stderr,
    )
