"""Early stopping: Tune's schedulers, called by identities and brought up to date from journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.planning.early_stopping import EarlyStopping
from sweep.running.early_stopping import EarlyStops
from trainers.canonical import make_config
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import TrialJournal, note_failure

ASHA = EarlyStopping(by="asha", metric="ridge/accuracy", mode="max", reduction=2)
MEDIAN = EarlyStopping(by="median", metric="ridge/accuracy", mode="max", min_trials=2)
EPOCHS = dict.fromkeys("abcdef", 4.0)


def test_asha_stops_what_is_below_the_cutoff_of_its_rung() -> None:
    stops = EarlyStops(ASHA, EPOCHS)  # rungs at epochs 1, 2 and 4
    assert not stops.decide("a", 1, 0.9)  # nobody was there before
    assert stops.decide("b", 1, 0.2)
    assert not stops.decide("c", 1, 0.95)
    assert not stops.decide("a", 2, 0.9)
    assert not stops.decide("a", 3, 0.1)  # between two rungs
    assert stops.decide("c", 2, 0.8)
    assert stops.reasons["b"] == (
        "stopped early at epoch 1 of 4 by asha: validation/ridge/accuracy 0.2, the best of 1 other "
        "trials there has 0.9"
    )
    assert stops.decide("b", 2, 1.0)  # a late report of what was stopped already


def test_rungs_reach_as_far_as_a_trial_that_comes_later(tmp_path: Path) -> None:
    for longest, stopped in ((0.0, False), (16.0, True)):
        stops = EarlyStops(ASHA, {"a": 2.0}, longest)  # rungs at 1 and 2, or up to 16
        stops.adopt(dict.fromkeys("bc", 16.0), str(tmp_path), [])
        for epoch in (1, 2):
            assert not stops.decide("b", epoch, 0.9)
            assert not stops.decide("c", epoch, 0.95)
        assert not stops.decide("b", 8, 0.9)
        assert stops.decide("c", 8, 0.2) == stopped


def test_at_its_last_epoch_a_trial_is_not_stopped() -> None:
    stops = EarlyStops(ASHA, EPOCHS)
    assert not stops.decide("a", 4, 0.9)
    assert not stops.decide("b", 4, 0.1)
    assert stops.reasons == {}


def test_the_lower_is_better_with_min() -> None:
    stops = EarlyStops(ASHA.model_copy(update={"mode": "min"}), EPOCHS)
    assert not stops.decide("a", 1, 0.2)
    assert stops.decide("b", 1, 0.9)


def test_an_attempt_that_reports_again_is_not_counted_twice() -> None:
    stops = EarlyStops(MEDIAN, EPOCHS)
    for trial, value in (("a", 0.1), ("b", 0.2)):
        for _ in range(3):  # it died and reported its epochs again
            assert not stops.decide(trial, 1, value)
    assert not stops.decide("c", 1, 0.16)  # median 0.15; with repeats it would be as well
    assert stops.decide("d", 1, 0.1)
    assert not stops.decide("e", 0, 0.0)  # before the first step nothing is decided
    assert not stops.decide("e", 1, float("nan"))


def test_no_trial_is_stopped_in_its_grace() -> None:
    late = EarlyStops(ASHA.model_copy(update={"grace_epochs": 2}), EPOCHS)
    assert not any(late.decide(trial, 1, value) for trial, value in (("a", 0.9), ("b", 0.1)))
    assert [late.decide(trial, 2, value) for trial, value in (("a", 0.9), ("b", 0.1))] == [0, 1]


@pytest.mark.parametrize("rule", [ASHA, MEDIAN])
def test_from_recorded_values_it_decides_as_if_it_had_never_ended(rule: EarlyStopping) -> None:
    history = [("a", 1, 0.5), ("b", 1, 0.6), ("c", 1, 0.7), ("b", 2, 0.65), ("c", 2, 0.4)]
    later = [("d", 1, 0.55), ("c", 3, 0.45), ("e", 1, 0.8), ("f", 1, 0.61), ("e", 2, 0.5)]
    whole, again = EarlyStops(rule, EPOCHS), EarlyStops(rule, EPOCHS)
    stopped_before = {one[0] for one in history if whole.decide(*one)}
    for trial in reversed("abc"):  # in another order than they came
        again.replay(trial, [(epoch, v) for name, epoch, v in history if name == trial])
    left = [one for one in later if one[0] not in stopped_before]
    decisions = [whole.decide(*one) for one in left]
    assert [again.decide(*one) for one in left] == decisions
    assert len(set(decisions)) == 2  # some go on, some do not


def replayed(epochs: dict[str, float], store: Path, begun: list[str]) -> EarlyStops:
    stops = EarlyStops(ASHA, {})
    stops.adopt(epochs, str(store), begun)
    return stops


def test_values_and_stops_are_read_from_the_journals_of_trials(tmp_path: Path) -> None:
    fields = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
    configs = [make_config(fields | {"seed": seed}) for seed in range(3)]
    first, second, third = (config.identity for config in configs)
    for config, value in zip(configs, (0.9, 0.2, 0.8), strict=True):
        journal = TrialJournal(trial_folder(str(tmp_path), config), config)
        journal.start()
        row = {"step": 3, "epoch": 1, "loss": 0.5, "time_ms": 1}
        journal.epoch(row | {"observed": {"validation/ridge/accuracy": value, "other": 1.0}})
        journal.epoch({"step": 4, "epoch": 2, "loss": 0.5, "time_ms": 2})  # not observed
        journal.close()
    note_failure(trial_folder(str(tmp_path), configs[1]), configs[1], "too low", "stopped")
    epochs = dict.fromkeys([first, second, third, "new"], 4.0)
    stops = replayed(epochs, tmp_path, [first, second, third, "of another sweep"])
    assert stops.reasons == {second: "too low"}
    assert stops.decide("new", 1, 0.7)  # cutoff 0.8, the median of the three
    assert not replayed(epochs, tmp_path, []).decide("new", 1, 0.7)
    # Begun again without the rule, it is no longer one that was stopped.
    journal = TrialJournal(trial_folder(str(tmp_path), configs[1]), configs[1])
    journal.start()
    journal.close()
    assert replayed(epochs, tmp_path, [second]).reasons == {}
