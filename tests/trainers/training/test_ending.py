"""Why a trial ends early, and under which name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from shards.support import lease
from shards.support.lease import ours, request_stop, take
from trainers.results.folder import finished, trial_folder
from trainers.results.lease import lease_folder
from trainers.runner import run_trial
from trainers.training.ending import Ending, StoppedError, TimeLimitError
from trainers.training.preemption import PreemptedError, PreemptionHandler


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(ending: Ending) -> Exception:
    with pytest.raises(Exception, match="state saved at step 7") as caught, ending.named():
        raise PreemptedError("state saved at step 7")
    return caught.value


def test_the_time_limit_counts_from_the_start_of_the_trial() -> None:
    clock = Clock()
    ending = Ending(PreemptionHandler(), 60.0, clock=clock)
    clock.now = 59.0
    assert not ending()
    assert type(ended(ending)) is PreemptedError
    clock.now = 60.0
    assert ending()
    error = ended(ending)
    assert type(error) is TimeLimitError
    assert str(error) == "time limit of 60 s; state saved at step 7"


@pytest.mark.parametrize("waits_for_ranks", [False, True])
def test_a_request_is_seen_in_the_lease(tmp_path: Path, waits_for_ranks: bool) -> None:
    held = take(str(tmp_path), ours("trial"))
    if waits_for_ranks:
        ending = Ending(PreemptionHandler(), lease_folder=str(tmp_path))
    else:
        ending = Ending(PreemptionHandler(), lease=held)
    assert type(ended(ending)) is PreemptedError
    request_stop(str(tmp_path))
    held.beat()
    assert ending() is not waits_for_ranks  # then the first rank ends by itself, and the others
    assert type(ended(ending)) is StoppedError


def test_a_trial_that_lost_its_lease_saves_at_once_and_so_ends(tmp_path: Path) -> None:
    held = take(str(tmp_path), ours("trial"))
    ending = Ending(PreemptionHandler(), lease=held)
    take(str(tmp_path), ours("trial"), gone=[held.claim.holder])
    held.beat()
    assert ending()


def test_a_trial_that_is_asked_to_stop_saves_and_the_same_command_continues(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.02)
    config, root = make(epochs=4, probes=("spectrum",)), str(tmp_path)

    def ask(values: dict[str, Any]) -> None:
        if values["epoch"] == 2:
            assert request_stop(lease_folder(root, config))
            time.sleep(0.5)  # some heartbeats

    with pytest.raises(StoppedError, match=r"stopped on request; state saved at step \d+"):
        run_trial(config, bank, root, ask)
    assert finished(root, config) is None
    assert list((Path(trial_folder(root, config)) / "checkpoints").iterdir())
    seen: list[int] = []
    result = run_trial(config, bank, root, lambda values: seen.append(values["epoch"]))
    assert seen in ([3, 4], [4])  # the request is not for the next holder
    assert result is not None
    assert [row.epoch for row in result.epochs] == [1, 2, 3, 4]


def test_a_trial_over_its_time_limit_fails_with_its_state_saved(
    bank: str, make: Any, tmp_path: Path
) -> None:
    config, root = make(epochs=4, probes=("spectrum",)), str(tmp_path)
    with pytest.raises(TimeLimitError, match=r"time limit of 0 s; state saved at step 1; the same"):
        run_trial(config, bank, root, time_limit=0.0)
    assert finished(root, config) is None
