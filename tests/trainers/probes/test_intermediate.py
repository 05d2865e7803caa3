"""`probe_at`: what a trial would have recorded had it ended there; nothing is disturbed or lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sweep.analysis.curves import images_of
from sweep.planning.early_stopping import check_decidable
from sweep.planning.kinds import kind_of
from sweep.planning.trial_seconds import nominal, seconds_of
from trainers.probes.intermediate import IntermediateProbes
from trainers.probes.names import metric_of
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import read_rows
from trainers.runner import run_trial
from trainers.training.preemption import PreemptedError

PROBES = ("spectrum", "linear", "robustness")


def weights(root: Path, config) -> bytes:
    return (Path(trial_folder(str(root), config)) / "student/student.safetensors").read_bytes()


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "objective": "supervised"}], ids=["", "ema"])
def test_values_are_those_of_a_trial_that_ends_there(bank, make, tmp_path, more) -> None:
    fields = {"epochs": 3, "probes": PROBES, **more}
    config = make(**fields, probe_at=("1 epochs", "2.5 epochs", "3 epochs", "9 epochs"))
    result = run_trial(config, bank, str(tmp_path))
    rows = result.observations.rows
    assert [(row.step, row.epoch) for row in rows] == [(3, 1), (7, 7 / 3)]  # 3 is the end
    assert result.observations.teacher == {}
    plain = run_trial(make(**fields), bank, str(tmp_path))
    assert plain.metrics == result.metrics
    assert weights(tmp_path, config) == weights(tmp_path, make(**fields))
    short = run_trial(make(**fields | {"epochs": 1}), bank, str(tmp_path))
    assert rows[0].values == short.metrics
    assert rows[0].values != rows[1].values
    assert all(metric_of(f"curve/{name}") == metric_of(name) for name in rows[0].values)


def test_curves_and_probes_of_one_step_share_a_row(bank, make, tmp_path) -> None:
    fields = {"epochs": 2, "probes": ("spectrum",), "curve_every": "1 epochs", "curve_samples": 40}
    seen = []
    result = run_trial(make(**fields, probe_at=["1 epochs"]), bank, str(tmp_path), seen.append)
    first, middle, last = result.observations.rows
    assert first.values.keys() == last.values.keys()
    assert middle.values.keys() - first.values.keys() == short_names(bank, make, tmp_path, fields)
    assert seen[0]["observed"] == middle.values
    assert set(result.observations.teacher) == set(first.values)


def short_names(bank, make, root: Path, fields) -> set[str]:
    return set(run_trial(make(**fields | {"epochs": 1}), bank, str(root)).metrics)


def test_a_trial_that_is_to_end_gives_its_probes_up_and_runs_them_again(
    bank, make, tmp_path, monkeypatch
) -> None:
    config = make(epochs=2, probes=PROBES, probe_at=["1 epochs"])
    whole = run_trial(config, bank, str(tmp_path / "whole"))
    calls = []

    def stop() -> bool:
        """True from the second probe on; the probes begin after three checks of the steps."""
        import inspect

        names = {frame.function for frame in inspect.stack()}
        calls.append("measure" in names)
        return sum(calls) >= 2

    with pytest.raises(PreemptedError, match="state saved at step 3"):
        run_trial(config, bank, str(tmp_path / "cut"), save_seconds=1e9, stop=stop)
    ended = len(calls)
    again = run_trial(config, bank, str(tmp_path / "cut"))
    assert ended < 12
    assert again.observations == whole.observations
    assert again.metrics == whole.metrics
    assert weights(tmp_path / "cut", config) == weights(tmp_path / "whole", config)


def test_given_up_again_and_again_an_epoch_is_reported_with_its_values(
    bank, make, tmp_path, monkeypatch
) -> None:
    """At the end of an epoch, where a curve is due too: a resumed trial must not report half."""
    config = make(
        epochs=2, probes=("spectrum",), probe_at=["1 epochs"], curve_every="1 epochs",
        curve_samples=40,
    )  # fmt: skip
    leave, seen = threading.Event(), []
    real = IntermediateProbes._check

    def check(self) -> None:
        leave.set()  # while the probes run
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(IntermediateProbes, "_check", check)
        for _ in range(2):
            leave.clear()
            with pytest.raises(PreemptedError, match="state saved at step 3"):
                run_trial(config, bank, str(tmp_path), seen.append, stop=leave.is_set)
            assert seen == []
    result = run_trial(config, bank, str(tmp_path), seen.append)
    observed = [row.values for row in result.observations.rows]
    assert [row["observed"] for row in seen] == observed[1:]
    assert observed[1].keys() > observed[2].keys()
    rows = read_rows(trial_folder(str(tmp_path), config))
    assert [row["observed"] for row in rows if row["event"] == "epoch"] == observed[1:]


@pytest.mark.ranks
def test_two_ranks_measure_as_one_trial_that_ends_there(bank, make, tmp_path) -> None:
    fields = {"engine": "ddp", "ranks": 2, "batch_size": 50, "probes": ("spectrum", "linear")}
    result = run_trial(make(**fields, epochs=2, probe_at=["1 epochs"]), bank, str(tmp_path))
    short = run_trial(make(**fields, epochs=1), bank, str(tmp_path))
    assert [row.values for row in result.observations.rows] == [short.metrics]


def test_one_spelling_and_what_is_refused(make) -> None:
    config = make(epochs=4, probe_at=["2 epoch", "2.0 epochs", "3 steps"])
    assert config.probe_at == ("2 epochs", "3 steps")
    assert config.identity != make(epochs=4).identity
    assert make(epochs=4, probe_at=[]).identity == make(epochs=4).identity
    assert make(epochs=0, probe_at=["1 epochs"]).identity == make(epochs=0).identity
    with pytest.raises(ValueError, match=r"probe_at.*nothing is trained yet; choose `1 steps`"):
        make(probe_at=["0 epochs"])
    with pytest.raises(ValueError, match=r"0\.001 epochs is less than a step"):
        make(probe_at=["0.001 epochs"]).probed_steps(200)


def test_nothing_is_decided_by_them(make) -> None:
    config = make(epochs=4, probe_at=["2 epochs"], validation_samples=40, curve_every="1 epochs")
    with pytest.raises(ValueError, match="`test/rank/effective` is of test images"):
        check_decidable(config, "early_stopping", "test/rank/effective")
    check_decidable(config, "early_stopping", "rank/effective")


def test_they_are_planned_and_change_no_curve(make) -> None:
    import pandas as pd

    kind, plain = (kind_of(make(epochs=4, **m)) for m in ({"probe_at": ["1 epochs"]}, {}))
    twice, once = (seconds_of(k, nominal(k)) for k in (kind, plain))
    assert twice.measuring == pytest.approx(2 * once.measuring)
    assert twice.training == once.training
    columns = ["trial", "validation/rank/effective", "test/rank/effective"]
    assert "or of clean test" not in images_of(pd.DataFrame(columns=columns))
