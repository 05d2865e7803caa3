"""What a plan adds up: seconds, hours, wall-clock, money, requests, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shards.support.progress import clock
from sweep.planning.banks import plan_banks
from sweep.planning.benchmark import missing
from sweep.planning.calibration import (
    Calibration,
    own_calibration,
    own_file,
    read_calibration,
    write_calibration,
)
from sweep.planning.costs import calibration_for, expected
from sweep.planning.dry_run import cost_lines
from sweep.planning.estimate import Estimate, estimate, paper_seconds
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from sweep.planning.kinds import kinds_of
from sweep.planning.prices import Prices, read_prices
from sweep.planning.recorded_plan import read_plan, record_plan
from sweep.planning.resources import Resources
from sweep.planning.sizes import student_of
from sweep.planning.trial_seconds import seconds_of
from tests.calibrated import OVERHEAD, calibrated

DEMO = expand(load_grid("demo"))
PRICES = read_prices(None).model_copy(
    update={"gpu_hour": {"L4": 2.0}, "cpu_hour": 0.1, "head_hour": 1.0, "setup_seconds": 36.0}
)


def planned(
    device: str, devices: int, remote: bool = False, resources: Resources | None = None
) -> Estimate:
    _, jobs = plan_banks(DEMO, "nowhere")
    known, used = calibrated(DEMO, device), resources or Resources()
    return estimate(kinds_of(DEMO), jobs, known, PRICES, devices, used, 10**9, remote)


def of_each(needs: dict[str, Any]) -> Resources:
    """A grid's `resources` for each trial."""
    return Resources(needs={config.identity: needs for config in DEMO})


def test_a_trial_is_training_observing_measuring_and_what_is_fixed() -> None:
    (kind, _), *_ = kinds_of(DEMO)
    taken = seconds_of(kind, calibrated(DEMO))
    steps = 8 * (1438 // 64)
    assert kind.observations == 9  # before the first epoch, and after each of eight
    observing = 9 * (0.1 + 2 * 359 * 1e-4)
    assert taken.training == pytest.approx(steps * 64 * 1.1e-3 + observing)
    assert taken.measuring == pytest.approx(3 + (2 * 1438 + 12 * 359) * 2e-4)
    assert taken.fixed == OVERHEAD.trial


def test_the_ranks_of_a_gang_share_the_samples_and_wait_for_each_other() -> None:
    (kind, _), *_ = kinds_of(DEMO)
    gang = replace(kind, config=kind.config.model_copy(update={"ranks": 2}))
    steps, observing = 8 * (1438 // 64), 9 * (0.1 + 2 * 359 * 1e-4)
    gradients = 4 * student_of(kind.config).parameters.total
    known = calibrated(DEMO)
    waiting = steps * (0.02 + 2e-9 * gradients)
    shared = steps * 64 * 1.1e-3 / 2
    assert seconds_of(gang, known).training == pytest.approx(shared + waiting + observing)
    # The paper's way has one device, which waits for nobody.
    assert paper_seconds([(gang, 1)], known) == paper_seconds([(kind, 1)], known)


def test_hours_are_the_same_on_any_number_of_devices_and_wall_clock_is_not() -> None:
    one, many = planned("cpu", 1), planned("cpu", 14)
    for name in ("build", "training", "measuring"):
        assert one.hours[name] == many.hours[name] > 0
    assert one.wall_seconds > 10 * many.wall_seconds
    assert one.paper_seconds > 3600 * (one.hours["training"] + one.hours["measuring"])


def running(estimated: Estimate) -> float:
    """Wall-clock seconds besides the building, what is fixed, and what goes on behind."""
    fixed = OVERHEAD.start + OVERHEAD.worker + OVERHEAD.behind * len(DEMO) / estimated.devices
    return estimated.wall_seconds - 3600 * estimated.hours["build"] / estimated.devices - fixed


def test_wall_clock_keeps_to_the_resources_of_the_grid_and_to_max_concurrent() -> None:
    one, four = running(planned("cpu", 1)), planned("cpu", 4)
    assert running(four) == pytest.approx(one / 4, rel=0.1)
    for resources, at_a_time in (
        (of_each({"cpus": 2}), 2),
        (of_each({"cpus": 3}), 1),
        (of_each({"cpus": 0.5}), 4),  # one thread takes one core all the same
        (Resources(concurrent=2), 2),
        (Resources(concurrent=1), 1),
        (Resources(concurrent=9), 4),
    ):
        found = planned("cpu", 4, resources=resources)
        assert running(found) == pytest.approx(one / at_a_time, rel=0.1)
    wide = planned("cpu", 4, resources=of_each({"cpus": 2}))
    assert wide.hours["training"] == pytest.approx(2 * four.hours["training"])
    with pytest.raises(ValueError, match=r"1 ranks need 5 CPU cores; the plan is for 4.*resources"):
        planned("cpu", 4, resources=of_each({"cpus": 5}))


def test_seeds_of_one_kind_may_occupy_different_shares() -> None:
    kinds = kinds_of(DEMO)[:1]
    (_, (first, *_)), *_ = kinds
    some = Resources(needs={first.identity: {"cpus": 3}})
    found, plain = (
        estimate(kinds, [], calibrated(DEMO), PRICES, 4, resources, 0, False).hours["training"]
        for resources in (some, Resources())
    )
    seeds = len(kinds[0][1])
    assert found == pytest.approx(plain * (seeds + 2) / seeds)


def test_gpus_cost_their_set_up_the_head_and_the_store() -> None:
    found = planned("L4", 4, remote=True)
    assert found.hours["set-up"] == pytest.approx(4 * 36 / 3600)
    assert found.money["machines"] == pytest.approx(2 * sum(found.hours.values()))
    assert found.money["head"] == pytest.approx(found.wall_seconds / 3600)
    assert found.money["storage, a month"] == pytest.approx(PRICES.storage_gb_month)
    assert found.puts > 28
    assert found.gets > 28
    for resources in (Resources(gpus_per_trial=0.5), of_each({"gpus": 0.5})):
        half = planned("L4", 4, resources=resources)
        assert half.hours["training"] == pytest.approx(found.hours["training"] / 2)
        assert half.wall_seconds < found.wall_seconds
    none = planned("L4", 4, resources=of_each({"gpus": 0}))
    assert none.hours["training"] == found.hours["training"]
    text = " ".join(cost_lines(found))
    for words in ("GPU-hours", "4 GPUs (L4)", "USD", "writes and lists", "the paper's way"):
        assert words in text
    assert clock(found.paper_seconds) in text


def test_a_plan_keeps_how_many_devices_each_trial_takes_and_their_price(tmp_path) -> None:
    gang, *others = DEMO
    trials = [gang.model_copy(update={"ranks": 4, "engine": "ddp"}), *others]
    known, resources = calibrated(trials, "L4"), Resources(gpus_per_trial=0.25)
    resources = replace(resources, needs={trials[0].identity: {"gpus": 1}})
    _, jobs = plan_banks(trials, "nowhere")
    for devices in (None, 4):
        found = expected(trials, jobs, known, PRICES, devices, resources, False)
        record_plan(tmp_path, **found.as_recorded())
        start = read_plan(tmp_path).starts[-1]
        wanted = {config.identity: 0.25 for config in others} | {trials[0].identity: 4.0}
        assert start.trial_shares == wanted
        assert (start.price, start.money is None) == (2.0, devices is None)


def test_what_a_recorded_calibration_lacks_is_named(tmp_path) -> None:
    file = str(tmp_path / "l4.yaml")
    known = calibrated(DEMO, "L4")
    write_calibration(file, known)
    assert read_calibration(file) == known
    bare = known.model_copy(update={"teachers": {}})
    _, jobs = plan_banks(DEMO, "nowhere")
    with pytest.raises(ValueError, match=r"L4: no teachers of `embedded from 32 px`.*--calibrate"):
        expected(DEMO, jobs, bare, PRICES, 1, Resources(), False)
    (tmp_path / "l4.yaml").write_text("device: L4\nspeed: 3\n")
    with pytest.raises(ValueError, match=r"l4\.yaml: unknown key `speed`"):
        calibration_for([], file, again=False)


def test_probes_on_few_images_say_nothing_of_those_on_more(tmp_path, monkeypatch) -> None:
    """A large part of their time is fixed: in proportion to 70 images it would be far too long."""
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path))
    few = [c.model_copy(update={"train_samples": 70, "test_samples": 20}) for c in DEMO[:1]]
    write_calibration(str(own_file()), calibrated(few))
    ((kind, _),) = kinds_of(DEMO[:1])
    assert f"measuring: {kind.measuring}" in missing([kind], own_calibration())
    # Above what is measured, seconds are in proportion.
    large = [c.model_copy(update={"dataset": "cifar10"}) for c in DEMO[:1]]
    larger = [c.model_copy(update={"train_samples": 20_000}) for c in large]
    ((one, _),), ((other, _),) = kinds_of(large), kinds_of(larger)
    assert one.measuring == other.measuring
    known = calibrated(larger)
    assert seconds_of(one, known).probing == pytest.approx(2.5 * seconds_of(other, known).probing)


def test_an_unknown_student_is_scaled_by_its_work_and_said() -> None:
    known = calibrated(DEMO)
    first = next(iter(known.students))
    only = known.model_copy(update={"students": {first: known.students[first]}})
    kinds = kinds_of(DEMO)
    found = estimate(kinds, [], only, PRICES, 2, Resources(), 0, False)
    assert any("width:1" in note for note in found.notes)
    other = next((kind, members[:1]) for kind, members in kinds if kind.student != first)
    whole = estimate([other], [], known, PRICES, 2, Resources(), 0, False)
    scaled = estimate([other], [], only, PRICES, 2, Resources(), 0, False)
    assert scaled.hours["training"] > 2 * whole.hours["training"]  # 5.5 times the products


def test_prices_are_checked(tmp_path) -> None:
    assert read_prices(None).hour("cpu") == read_prices(None).cpu_hour
    with pytest.raises(ValueError, match="no price of `H100`, and no `other`"):
        PRICES.hour("H100")
    file = tmp_path / "prices.yaml"
    file.write_text(Prices.model_dump_json(PRICES).replace("0.1,", "-1,"))
    with pytest.raises(ValueError, match=r"prices\.yaml: cpu_hour: .* got -1"):
        read_prices(str(file))


@pytest.mark.slow
def test_this_machine_is_measured_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path))
    kinds = [kind for kind, _ in kinds_of(DEMO[:1])]
    known = calibration_for(kinds, None, again=False)
    assert seconds_of(kinds[0], known).whole > 1
    assert calibration_for(kinds, None, again=False) == known
    assert isinstance(known, Calibration)
