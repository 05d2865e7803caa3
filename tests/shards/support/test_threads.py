from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shards.support.threads import prefetch


def test_results_come_in_order_and_at_most_depth_ahead() -> None:
    begun: list[int] = []

    def square(item: int) -> int:
        begun.append(item)
        return item * item

    with ThreadPoolExecutor(1) as pool:
        for i, found in enumerate(prefetch(pool, square, range(20), depth=2)):
            assert found == i * i
            assert len(begun) <= i + 3


def test_an_error_comes_at_its_turn_and_ends_it() -> None:
    def invert(item: int) -> float:
        return 1 / item

    with ThreadPoolExecutor(2) as pool:
        results = prefetch(pool, invert, [2, 1, 0, 1], depth=3)
        assert [next(results), next(results)] == [0.5, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_what_was_not_begun_is_cancelled_when_the_caller_stops() -> None:
    release, begun = threading.Event(), []

    def wait(item: int) -> None:
        begun.append(item)
        if item:
            release.wait(10)

    with ThreadPoolExecutor(1) as pool:
        results = prefetch(pool, wait, range(9), depth=4)
        next(results)
        results.close()
        release.set()
    assert set(begun) <= {0, 1}
