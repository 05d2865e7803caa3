"""What a driver publishes to its workers; a dictionary stands for Ray's key-value store."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.running import channel


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    store: dict[bytes, bytes] = {}

    def put(key: str, value: bytes, **options: Any) -> None:
        store[key.encode()] = value

    def delete(key: str, **options: Any) -> None:
        assert options["del_by_prefix"]
        for found in names(key):
            del store[found]

    def names(prefix: str, **options: Any) -> list[bytes]:
        return [key for key in store if key.startswith(prefix.encode())]

    kv = channel.internal_kv
    monkeypatch.setattr(kv, "_internal_kv_put", put)
    monkeypatch.setattr(kv, "_internal_kv_get", lambda key, **options: store.get(key.encode()))
    monkeypatch.setattr(kv, "_internal_kv_list", names)
    monkeypatch.setattr(kv, "_internal_kv_del", delete)
    channel._documents.cache_clear()
    return store


def test_a_trial_finds_its_document_until_the_sweep_is_forgotten(store: dict[bytes, bytes]) -> None:
    channel.publish("one", {"a": {"bank": "A"}, "b": {"bank": "B"}})
    channel.publish("two", {"a": {"bank": "C"}})
    assert [channel.document(*which)["bank"] for which in (("one", "b"), ("two", "a"))] == [
        "B",
        "C",
    ]
    channel.forget("one")
    assert channel.document("two", "a") == {"bank": "C"}
    with pytest.raises(RuntimeError, match="the driver of this sweep has ended"):
        channel.document("one", "a")


def test_a_request_to_leave_reaches_one_node_or_all(store: dict[bytes, bytes]) -> None:
    channel.request_leave("one", "node a")
    places = [("one", "node a"), ("one", "node b"), ("two", "node a")]
    assert [channel.is_leave_requested(*place) for place in places] == [True, False, False]
    channel.request_leave("one")
    assert [channel.is_leave_requested(*place) for place in places] == [True, True, False]
    channel.forget("one")
    assert not store


def test_what_is_published_later_is_found_by_a_process_that_has_read_before(
    store: dict[bytes, bytes],
) -> None:
    channel.publish("one", {"a": {"bank": "A"}})
    assert channel.document("one", "a") == {"bank": "A"}
    channel.publish("one", {"a": {"bank": "A"}, "b": {"bank": "B"}})
    assert channel.document("one", "b") == {"bank": "B"}
