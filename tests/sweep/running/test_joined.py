"""Two sweeps on one store: the second is refused, or works beside the first."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from shards.bank.manifest import MANIFEST
from shards.support import lease as leases
from shards.support.lease import Observer, ours, request_stop, take
from sweep.journal.events import Journal
from sweep.journal.run_record import open_record
from sweep.planning.early_stopping import EarlyStopping
from sweep.planning.resources import Resources
from sweep.running import holding
from sweep.running.driver import _Run
from sweep.running.joined import build_once, wait_for_others
from sweep.running.stopping import Stopping
from sweep.running.sweep import Sweep
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.results.folder import trial_folder
from trainers.results.lease import lease_folder
from trainers.results.trial_journal import note_failure

ARGUMENTS = ["--grid", "demo", "--out", "my runs"]
FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def trials(count: int) -> list[TrialConfig]:
    return [make_config(FIELDS | {"seed": seed}) for seed in range(count)]


def claim_elsewhere(token: str = "") -> leases.Claim:
    claim = ours("trial", token)
    return claim.model_copy(
        update={"process": claim.process.model_copy(update={"host": "far", "pid": 7})}
    )


def test_a_second_sweep_is_refused_and_names_the_first(tmp_path: Path) -> None:
    store = str(tmp_path)
    (tmp_path / "banks").mkdir()  # what a sweep has made
    with (
        holding.holding(store, ARGUMENTS, join=False) as first,
        pytest.raises(ValueError, match="a sweep works on it") as refused,
        holding.holding(store, ARGUMENTS, join=False),
    ):
        pass
    assert not first.joined
    said = str(refused.value)
    for part in (
        f"process {os.getpid()} on ",
        "python -m sweep.run --grid demo --out 'my runs'",
        "--join",
    ):
        assert part in said
    with holding.holding(store, ARGUMENTS, join=False) as second:
        assert second.token == first.token  # the trials that the first has left are its own


def test_one_that_joins_has_a_token_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path)
    with holding.holding(store, ARGUMENTS, join=True) as first:
        assert not first.joined  # there is nothing to join yet
        with holding.holding(store, ARGUMENTS, join=True) as second:
            assert second.joined
            assert second.token != first.token
            assert not second.stop_requested()
            request_stop(str(tmp_path / holding.FOLDER))
            assert second.stop_requested()
    assert f"joins the sweep of process {os.getpid()}" in capsys.readouterr().err


def test_one_that_joined_holds_the_store_when_the_first_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "BEAT", 0.01)
    store, place = str(tmp_path), str(tmp_path / holding.FOLDER)
    (tmp_path / "banks").mkdir()
    first = holding.holding(store, ["--grid", "first"], join=False)
    first.__enter__()
    with holding.holding(store, ["--grid", "second"], join=True) as second:
        first.__exit__(None, None, None)
        end = time.monotonic() + 30
        while leases.is_free(leases.read_claim(place)[1]) and time.monotonic() < end:
            time.sleep(0.01)
        with (
            pytest.raises(ValueError, match="--grid second"),
            holding.holding(store, ["--grid", "third"], join=False),
        ):
            pass
        assert not second.stop_requested()
        request_stop(place)
        assert second.stop_requested()
    with holding.holding(store, ["--grid", "fourth"], join=False) as fourth:
        assert fourth.token == second.token


def test_one_that_joined_stops_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "BEAT", 0.01)
    store, place = str(tmp_path), str(tmp_path / holding.FOLDER)
    (tmp_path / "banks").mkdir()
    first = holding.holding(store, ["--grid", "first"], join=False)
    first.__enter__()
    with holding.holding(store, ["--grid", "second"], join=True) as second:
        request_stop(place)
        first.__exit__(None, None, None)
        time.sleep(0.2)
        assert second.stop_requested()


def test_the_sweep_of_a_machine_that_is_gone_is_followed_after_its_lease_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = take(str(tmp_path / holding.FOLDER), claim_elsewhere("token of the sweep"))
    clock = Clock()
    monkeypatch.setattr(leases, "EXPIRES", 30.0)
    monkeypatch.setattr(leases, "Observer", lambda expires: Observer(expires, clock))
    wait = leases.wait_and_take
    monkeypatch.setattr(
        holding, "wait_and_take", lambda *args, **options: wait(*args, sleep=clock.sleep, **options)
    )
    with holding.holding(str(tmp_path), ARGUMENTS, join=False) as after:
        assert after.token == before.claim.token
        assert clock.now == 30.0
    assert "process 7 on far has worked on this store since" in capsys.readouterr().err


def test_a_mistake_leaves_no_folder(tmp_path: Path) -> None:
    store = tmp_path / "runs" / "mistake"
    with (
        pytest.raises(ValueError, match="unknown student"),
        holding.holding(str(store), ARGUMENTS, join=False),
    ):
        raise ValueError("unknown student")
    assert not store.exists()


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"store .*/file/below: not writable \(Not a directory\)"),
        holding.holding(str(tmp_path / "file" / "below"), ARGUMENTS, join=False),
    ):
        pass


# ---- trials that another sweep runs ----


def test_what_others_finish_is_adopted_and_what_they_leave_is_run(tmp_path: Path) -> None:
    """Four trials elsewhere: one is finished, one given up, one's holder is gone, one goes on."""
    store, clock, done, four = str(tmp_path), Clock(), set[str](), trials(4)
    finished, given_up, gone, alive = four
    held = {c.identity: take(lease_folder(store, c), claim_elsewhere()) for c in four}

    def adopt(config: TrialConfig) -> bool:
        return config.identity in done

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        for config in (finished, given_up, alive):
            if not held[config.identity].claim.released:
                held[config.identity].beat()
        if clock.now == 10:
            done.add(finished.identity)
        if clock.now == 20:
            held[given_up.identity].release()
        if clock.now == 40:
            done.add(alive.identity)

    observer = Observer(30.0, clock)
    free, holders = wait_for_others(four, store, adopt, lambda: False, observer, sleep)
    assert (free, holders, clock.now) == ([given_up], (), 20)
    rest = [gone, alive]
    free, holders = wait_for_others(rest, store, adopt, lambda: False, observer, sleep)
    assert (free, holders, clock.now) == ([gone], (held[gone.identity].claim.holder,), 30)
    assert wait_for_others([alive], store, adopt, lambda: False, observer, sleep) == ([], ())
    assert clock.now == 40


def test_waiting_for_others_ends_where_the_sweep_is_to_stop(tmp_path: Path) -> None:
    (config,), looks = trials(1), []
    take(lease_folder(str(tmp_path), config), claim_elsewhere())

    def stop() -> bool:
        looks.append(None)
        return len(looks) > 3

    no_sleep: Any = lambda seconds: None  # noqa: E731
    found = wait_for_others([config], str(tmp_path), lambda c: False, stop, None, no_sleep)
    assert found == ([], ())
    assert len(looks) == 4


def test_a_bank_is_built_by_one_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, location = str(tmp_path), tmp_path / "banks" / "0123"
    built: list[str] = []

    def build() -> None:
        built.append("built")
        location.mkdir(parents=True)
        (location / MANIFEST).write_text("{}")

    other = take(str(tmp_path / "bank-leases" / "0123"), ours("bank"))

    def sleep(seconds: float) -> None:
        build()
        other.release()

    build_once(str(location), store, build, sleep)
    build_once(str(location), store, build, sleep)
    assert built == ["built"]
    assert f"waiting for {location}: process {os.getpid()}" in capsys.readouterr().err
    again = tmp_path / "banks" / "4567"

    def build_again() -> None:
        again.mkdir()
        (again / MANIFEST).write_text("{}")

    build_once(str(again), store, build_again, sleep)
    assert (again / MANIFEST).exists()
    assert not (tmp_path / "bank-leases" / "4567").exists()


def test_what_others_stopped_is_not_taken_up(tmp_path: Path) -> None:
    store, four = str(tmp_path), trials(4)
    early, stopped, gone, failed = four
    rule = EarlyStopping(by="asha", metric="ridge/accuracy", mode="max")
    hold = holding.Hold("token", True, lambda: False)
    folder = tmp_path / "run"
    record = open_record(folder, store, "run")
    sweep = Sweep(folder, store, Resources(), record, hold, early_stopping=rule)
    with contextlib.closing(Journal(folder)) as journal:
        run = _Run(sweep, journal, four, None)
        for config in four:  # begun since this sweep has looked what is
            with take(lease_folder(store, config), claim_elsewhere()):
                if config is stopped:
                    request_stop(lease_folder(store, config))
        note_failure(trial_folder(store, early), early, "stopped early at epoch 1", "stopped")
        note_failure(trial_folder(store, failed), failed, "RuntimeError: a rank died")
        run.watch.elsewhere |= run.watch.trials.keys()
        left, _ = run.left_by_others(Observer())
        assert {c.identity for c in left} == {gone.identity, failed.identity}
        assert run.watch.stopped_early == {early.identity: "stopped early at epoch 1"}
        assert list(run.watch.stopped) == [stopped.identity]
        run.watch.elsewhere = {early.identity, stopped.identity}
        assert run.left_by_others(Observer()) == ([], ())
        assert not run.watch.elsewhere


# ---- a request to stop ----


def test_a_request_reaches_the_trials_at_work_through_their_leases(tmp_path: Path) -> None:
    store, (one, two, waiting) = str(tmp_path), trials(3)
    held = [take(lease_folder(store, c), claim_elsewhere()) for c in (one, two)]
    running, asked, stops = [one], False, []
    stopping = Stopping(store, lambda: asked, lambda: running)
    stopping.look(lambda: stops.append(None))
    assert not stopping.requested
    asked = True
    stopping.look(lambda: stops.append(None))
    running += [two, waiting]  # started meanwhile; the last has no lease yet
    stopping.look(lambda: stops.append(None))
    assert stopping.requested
    assert len(stops) == 1
    for lease in held:
        lease.beat()
        assert lease.stop_requested
    last = take(lease_folder(store, waiting), claim_elsewhere())
    stopping.look(lambda: stops.append(None))
    last.beat()
    assert last.stop_requested
