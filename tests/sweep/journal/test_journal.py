"""The journal: every line whole and on disk, none twice, a damaged one named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.journal.events import (
    EpochEvent,
    Event,
    FailedEvent,
    Journal,
    ResultEvent,
    StartEvent,
    read_events,
)
from sweep.journal.records import read_run
from tests.sweep.made import made
from trainers.results.record import TrialResult

CONFIG = {"dataset": "d", "teacher": "t", "student": "s", "arm": "clean", "seed": 0}


def result(rank: float = 1.0) -> TrialResult:
    return made({"config": CONFIG, "metrics": {"test/rank/effective": rank}})


def started(trial: str) -> StartEvent:
    return StartEvent(trial=trial, config=CONFIG)


def lines(folder: Path) -> list[str]:
    return (folder / "journal.jsonl").read_text().splitlines()


def kinds(folder: Path) -> list[str]:
    return [event.event for _, event in read_events(folder / "journal.jsonl")]


def test_each_append_is_on_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("sweep.journal.events.os.fsync", synced.append)
    journal = Journal(tmp_path)
    for count in (1, 2):
        journal.append(started(f"t{count}"))
        assert len(lines(tmp_path)) == len(synced) == count
    journal.close()


def test_duplicates_are_not_written_twice(tmp_path: Path) -> None:
    for _ in range(2):  # also not by the next process
        journal = Journal(tmp_path)
        for _ in range(2):
            journal.append(started("a"))
            journal.append(EpochEvent(trial="a", step=10, values={"loss": 1.0}, time_ms=5))
            journal.append(EpochEvent(trial="a", step=20, values={"loss": 0.5}, time_ms=6))
            journal.append(ResultEvent(trial="a", record=result()))
        journal.close()
    assert kinds(tmp_path) == ["start", "epoch", "epoch", "result"]


def test_an_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    event = ResultEvent(trial="a", record=result())
    journal = Journal(tmp_path)
    journal.append(event)
    journal.close()
    assert [event for _, event in read_events(journal.path)] == [event]
    assert json.loads(lines(tmp_path)[0])["record"]["environment"]["scikit-learn"] == "1.9"


def test_another_result_begins_anew_and_is_written_once(tmp_path: Path) -> None:
    """A trial whose folder was deleted has run again, over the same steps."""

    def stored(rank: float, time_ms: int) -> list[Event]:
        epoch = EpochEvent(trial="a", step=10, values={"loss": rank}, time_ms=time_ms)
        return [started("a"), epoch, ResultEvent(trial="a", record=result(rank))]

    for _ in range(2):  # also by the next process
        for rank, time_ms in ((1.0, 5), (2.0, 9)):
            journal = Journal(tmp_path)
            if not journal.has_result("a", result(2.0)):
                journal.extend(stored(rank, time_ms))
            journal.close()
    events = [event for _, event in read_events(tmp_path / "journal.jsonl")]
    assert [event.event for event in events] == ["start", "epoch", "result"] * 2
    starts = [event for event in events if isinstance(event, StartEvent)]
    assert [start.again for start in starts] == [False, True]
    (kept,) = read_run(tmp_path).results
    assert kept.metrics == {"test/rank/effective": 2.0}


@pytest.mark.faults
def test_a_run_again_that_was_half_written_is_completed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    second = [started("a"), ResultEvent(trial="a", record=result(2.0))]
    for events in ([started("a"), ResultEvent(trial="a", record=result())], second):
        journal.extend(events)
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines(tmp_path)[:-1]))
    assert [kept.metrics for kept in read_run(tmp_path).results] == [{"test/rank/effective": 1.0}]
    journal = Journal(tmp_path)
    journal.extend(second)
    journal.close()
    assert kinds(tmp_path) == ["start", "result"] * 2
    assert [kept.metrics for kept in read_run(tmp_path).results] == [{"test/rank/effective": 2.0}]


def test_failures_may_repeat_and_a_result_follow(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(FailedEvent(trial="a", config=CONFIG, error="one"))
    journal.append(FailedEvent(trial="a", config=CONFIG, error="two"))
    journal.append(ResultEvent(trial="a", record=result()))
    journal.close()
    assert kinds(tmp_path) == ["failed", "failed", "result"]


@pytest.mark.faults
@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_cut_last_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.append(started("a"))
    journal.append(ResultEvent(trial="a", record=result()))
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert kinds(tmp_path) == ["start"]
    journal = Journal(tmp_path)
    journal.append(ResultEvent(trial="a", record=result()))
    journal.close()
    assert kinds(tmp_path) == ["start", "result"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("{", "not JSON"),
        ("\x00\x00", "not JSON"),
        ("\udcff", "not JSON"),
        ("", "not JSON"),
        ("3", "got '3'; expected an event of start, epoch, result, failed, stopped, probe"),
        ('{"event": "another", "trial": "a"}', "expected an event of"),
        ('{"event": "start"}', "trial: missing"),
        ('{"event": "start", "trial": 3, "config": {}}', "trial: Input should be a valid string"),
        ('{"event": "failed", "trial": "a"}', "config: missing"),
        ('{"event": "result", "trial": "a"}', "record: missing"),
        ('{"event": "result", "trial": "a", "record": {"format": "x"}}', "format 'x'; this code"),
        ('{"event": "result", "trial": "a", "record": {}}', "not a whole trial-result/1"),
        ('{"event": "probe", "trial": "a", "step": 1, "result": {"probe": "b"}}', "missing"),
    ],
)
def test_a_damaged_line_is_named_with_what_is_wrong(tmp_path: Path, damage: str, why: str) -> None:
    journal = Journal(tmp_path)
    for name in "abc":
        journal.append(started(name))
    journal.close()
    path = tmp_path / "journal.jsonl"
    whole = lines(tmp_path)
    text = "\n".join([whole[0], damage, whole[2]]) + "\n"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"journal\.jsonl:2: ") as caught:
        Journal(tmp_path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="jsonl:2: "):  # also when read from behind line 1
        list(read_events(path, len(whole[0]) + 1))


def test_offsets_continue(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in "abc":
        journal.append(started(name))
    journal.close()
    path = tmp_path / "journal.jsonl"
    (first, _), *rest = read_events(path)
    assert list(read_events(path, first)) == rest
    assert rest[-1][0] == path.stat().st_size
