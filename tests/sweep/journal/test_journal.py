"""The journal: every line whole and on disk, none twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.journal import Journal, read_events


def lines(folder: Path) -> list[str]:
    return (folder / "journal.jsonl").read_text().splitlines()


def test_each_append_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("sweep.journal.os.fsync", synced.append)
    journal = Journal(tmp_path)
    for count in (1, 2):
        journal.append("start", f"t{count}", config={})
        assert len(lines(tmp_path)) == len(synced) == count
    journal.close()


def test_duplicates_are_not_written_twice(tmp_path: Path) -> None:
    for _ in range(2):  # also not by the next process
        journal = Journal(tmp_path)
        for _ in range(2):
            journal.append("start", "a", config={})
            journal.append("epoch", "a", step=10, values={"loss": 1.0}, time_ms=5)
            journal.append("epoch", "a", step=20, values={"loss": 0.5}, time_ms=6)
            journal.append("result", "a", record={})
        journal.close()
    kinds = [json.loads(line)["event"] for line in lines(tmp_path)]
    assert kinds == ["start", "epoch", "epoch", "result"]


def test_failure_then_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("failed", "a", config={}, error="one")
    journal.append("failed", "a", config={}, error="two")
    assert not journal.has("result", "a")
    journal.append("result", "a", record={})
    assert journal.has("result", "a")
    journal.close()
    kinds = [event["event"] for _, event in read_events(tmp_path / "journal.jsonl")]
    assert kinds == ["failed", "failed", "result"]


@pytest.mark.faults
@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_cut_last_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.append("start", "a", config={})
    journal.append("result", "a", record={"x": 1})
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [event["event"] for _, event in read_events(path)] == ["start"]
    journal = Journal(tmp_path)
    assert not journal.has("result", "a")
    journal.append("result", "a", record={"x": 1})
    journal.close()
    assert [json.loads(line)["event"] for line in lines(tmp_path)] == ["start", "result"]


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["{", "3", '{"event": "start"}', "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    journal = Journal(tmp_path)
    for name in "abc":
        journal.append("start", name, config={})
    journal.close()
    path = tmp_path / "journal.jsonl"
    whole = lines(tmp_path)
    path.write_text("\n".join([whole[0], damage, whole[2]]) + "\n")
    with pytest.raises(ValueError, match=r"journal\.jsonl: line 2 is not an event"):
        Journal(tmp_path)
    with pytest.raises(ValueError, match="line 2"):  # also when read from behind line 1
        list(read_events(path, len(whole[0]) + 1))


def test_offsets_continue(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in "abc":
        journal.append("start", name, config={})
    journal.close()
    path = tmp_path / "journal.jsonl"
    (first, _), *rest = read_events(path)
    assert list(read_events(path, first)) == rest
    assert rest[-1][0] == path.stat().st_size
