"""How long an operation on a file is tried again: moments on a disk, minutes on an object store.

This is the one place that decides it, for reads, writes, deletes and lists alike; every operation
in `shards.support.storage` and `shards.support.conditional` goes through `retried`. The clients of
object stores do not retry by themselves (see `shards.support.clients`).

- An error that may pass is met by a few short pauses, PAUSES, wherever the file is.
- A store that has answered this process before is then tried again for PATIENCE seconds: an address
  that was right an hour ago is right, so there is an outage, which a trial waits out. Expired
  credentials count as one, and are read anew before every further attempt.
- A store that has never answered gets BRIEF seconds: its address may be wrong, and whoever typed it
  is waiting. A process that works for one which has reached the store says so by `expect`, or by
  ANSWERS in its environment.
- Inside `briefly` it is BRIEF seconds too: for what is tried again by itself, such as a heartbeat.
- Everything else, such as a missing file or a refusal, is raised at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from shards.support.clients import forget_credentials
from shards.support.store_errors import (
    describe_error,
    is_expired,
    is_transient,
    remedy_of,
    text_of,
)

T = TypeVar("T")

# Seconds before each further attempt. Together 2.1 s: enough for a dropped connection or a network
# mount that is being re-established, short enough that a dead disk is reported soon.
PAUSES = (0.1, 0.4, 1.6)
# After these the pauses are drawn from this range, so that the trials of a sweep do not all come
# back to a store at the same moment.
LONG_PAUSE = (5.0, 10.0)
BRIEF = 8.0
PATIENCE_VARIABLE, PATIENCE = "DISTIL_STORE_SECONDS", 300.0
REMOTE = ("s3://", "gs://", "https://")
ANSWERS = "DISTIL_STORE_ANSWERS"  # stores that have answered the process that started this one

_brief: contextvars.ContextVar[bool] = contextvars.ContextVar("brief", default=False)
_answered: set[str] = set()  # stores that have answered this process
_down: dict[str, float] = {}  # {store that does not answer: when that was first seen}
_lock = threading.Lock()


def retried(location: str, call: Callable[[], T]) -> T:
    """`call()`, an operation on `location`, tried again as the module says.

    It must be right to call it again where it has succeeded and the reply was lost.

    Raises: OSError naming `location` when the last attempt fails as well; at once any error that
    is neither transient nor about expired credentials.
    """
    # The first call bypasses tenacity, which costs about 20 us a call: streaming reads a row at a
    # time, and a row costs 2 us.
    began = time.monotonic()
    try:
        result = call()
    except Exception as error:
        return _again(location, call, error, began)
    if location.startswith(REMOTE):
        _has_answered(location)
    return result


def expect(location: str) -> None:
    """Be patient with the store of `location` from the start: another process has reached it."""
    if location.startswith(REMOTE):
        _answered.add(_store(location))


def answers() -> dict[str, str]:
    """Environment for a child process, which is then patient with the stores that answered here."""
    known = _answered | set(os.environ.get(ANSWERS, "").split())
    return {ANSWERS: " ".join(sorted(known))} if known else {}


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Inside the block, in this thread, no outage is waited out."""
    before = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(before)


def patience() -> float:
    """Seconds for which an outage is waited out. Raises: ValueError for a wrong setting."""
    text = os.environ.get(PATIENCE_VARIABLE, str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"{PATIENCE_VARIABLE}: `{text}` is not a number of seconds, 0 or more")
    return seconds


def _again(location: str, call: Callable[[], T], error: Exception, began: float) -> T:
    """Further attempts, after a first one that began at `began` and failed with `error`."""
    store, remedy = _store(location), remedy_of(location)
    is_known = remedy is not None and (
        store in _answered or store in os.environ.get(ANSWERS, "").split()
    )
    waits = is_known and not _brief.get()
    # A disk is given PAUSES, however long its attempts take.
    limit = patience() if waits else BRIEF if remedy else float("inf")
    known: Exception | None = error

    def attempt() -> T:
        nonlocal known
        if known is not None:  # the outcome of the call before counts as the first attempt
            first, known = known, None
            raise first
        return call()

    def may_pass(error: BaseException) -> bool:
        if is_known and is_expired(error):
            forget_credentials(location)
            return True
        return is_transient(error)

    def give_up(state: tenacity.RetryCallState) -> bool:
        is_last = state.attempt_number > len(PAUSES) and not waits
        return is_last or time.monotonic() - began + state.upcoming_sleep > limit

    def before_sleep(state: tenacity.RetryCallState) -> None:
        if waits and state.attempt_number > len(PAUSES) and state.outcome is not None:
            _is_down(location, state.outcome.exception(), limit)

    pauses = [*map(tenacity.wait_fixed, PAUSES), tenacity.wait_random(*LONG_PAUSE)]
    retrying = tenacity.Retrying(
        stop=give_up,
        wait=tenacity.wait_chain(*pauses),
        retry=tenacity.retry_if_exception(may_pass),
        before_sleep=before_sleep,
        reraise=True,
    )
    try:
        result = retrying(attempt)
    except Exception as last:
        if not may_pass(last):
            if remedy and isinstance(last, FileNotFoundError):
                _has_answered(location)
            raise describe_error(location, last) from None
        count = retrying.statistics["attempt_number"]
        attempts = "1 attempt" if count == 1 else f"{count} attempts"
        raise OSError(
            f"{location}: {attempts} failed in {time.monotonic() - began:.0f} s "
            f"({text_of(last)}); {remedy or 'check the disk or mount, then try again'}"
        ) from None
    if remedy:
        _has_answered(location)
    return result


def _store(location: str) -> str:
    """SCHEME://BUCKET or SCHEME://HOST of a URL."""
    return "/".join(location.split("/", 3)[:3])


def _has_answered(location: str) -> None:
    """Note that the store of a URL answers, and say so where it did not before."""
    store = _store(location)
    _answered.add(store)
    if store in _down:
        with _lock:
            since = _down.pop(store, None)
        if since is not None:
            seconds = time.monotonic() - since
            print(f"{store}: answers again after {seconds:.0f} s", file=sys.stderr)


def _is_down(location: str, error: BaseException | None, limit: float) -> None:
    """Note that the store of a URL does not answer, and say so once for each outage."""
    store = _store(location)
    with _lock:
        is_new = _down.setdefault(store, now := time.monotonic()) == now
    if is_new:
        why = "" if error is None else text_of(error)
        print(f"waiting: {location}: {why}; trying again for up to {limit:g} s", file=sys.stderr)
