"""The engines give one student: the same batches, gradients and steps, resumed or not.

All in one file, for the gangs that play the trainings are started once for each process of tests.
"""

from importlib.util import find_spec

import pytest
import torch
from torch.amp import GradScaler

from tests.trainers.engines.runs import FULLY, LONG, ZERO
from trainers.objectives import OBJECTIVES

pytestmark = pytest.mark.ranks

deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


def apart(one, other, kind=""):
    """Largest difference over the tensors whose name starts with `kind`."""
    names = [name for name in one if name.startswith(kind)]
    assert names
    return max(float((one[name] - other[name]).abs().max()) for name in names)


def moved(found):
    """How far 50 steps have taken the weights: what a difference is to be compared with."""
    return apart({"w": found["model/0.weight"]}, {"w": torch.zeros(())})


def test_fifty_steps_over_two_ranks_are_those_of_one_process(played):
    one, two = played("fifty double/single"), played("fifty double/ddp")
    assert apart(one, two, "model/") < 1e-8  # weights, running statistics, counters
    assert apart(one, two, "losses") < 1e-10
    assert one["losses"][-1] < 0.8 * one["losses"][0]
    assert one["model/1.num_batches_tracked"] == 50
    assert (one["model/1.running_mean"]).abs().max() > 0.01


def test_in_float32_the_first_gradient_is_the_same(played):
    one, two = played("fifty/single"), played("fifty/ddp")
    assert apart(one, two, "gradient/") < 1e-5
    assert abs(one["losses"][0] - two["losses"][0]) < 1e-5


def test_all_ranks_end_with_the_same_student(played):
    assert apart(played("fifty double/ddp", 0), played("fifty double/ddp", 1), "model/") == 0


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_see_the_whole_batch(played, name):
    one, two = played(f"of {name}/single"), played(f"of {name}/ddp")
    assert max(float(t.abs().max()) for n, t in one.items() if n.startswith("gradient/")) > 1e-4
    assert apart(one, two, "gradient/") < 1e-10
    assert apart(one, two, "losses") < 1e-10


def test_without_the_option_statistics_are_each_rank_s_own(played):
    one, two = played("apart/single"), played("apart/ddp")
    assert apart(one, two, "gradient/") > 1e-3
    assert apart(two, played("apart/ddp", 1), "model/1.running_mean") > 1e-4


@pytest.mark.parametrize("name", ["clipped", "accumulated"])
def test_clipping_and_accumulation_are_the_same_over_ranks(played, name):
    one, two = played(f"{name}/single"), played(f"{name}/ddp")
    assert apart(one, two, "model/") < 1e-5
    assert apart(one, two, "losses") < 1e-4


def test_the_options_change_what_they_should(played):
    plain, clipped = played("fifty/single"), played("clipped/single")
    norm = torch.stack([t.norm() for n, t in plain.items() if n.startswith("gradient/")]).norm()
    kept = torch.stack([t.norm() for n, t in clipped.items() if n.startswith("gradient/")]).norm()
    assert norm > 1
    assert abs(kept - 0.5) < 1e-4
    accumulated = played("accumulated/single")  # micro-batches have their own negatives
    assert abs(accumulated["losses"][0] - plain["losses"][0]) > 0.1
    assert accumulated["model/1.num_batches_tracked"] == 30


def test_statistics_over_ranks_go_with_a_compiled_model(played):
    assert apart(played("compiled/single"), played("compiled/ddp"), "model/") < 1e-8


@pytest.mark.parametrize("engine", ["single", "ddp"])
def test_gradients_that_overflow_in_half_precision_are_passed_over(played, engine):
    """But not a loss that is infinite, which ends the trial: `TrainingState`."""
    found = played(f"half/{engine}")
    assert found["losses"].isfinite().all()
    assert float(found["scaler/scale"]) < GradScaler("cpu").get_scale()
    assert found["scaler/_growth_tracker"] <= 4  # steps since the last one
    assert all(tensor.isfinite().all() for n, tensor in found.items() if ".weight" in n)
    assert found["losses"][-1] < found["losses"][0]


def test_precisions_differ_but_little(played):
    for engine in ("single", "ddp"):
        found, exact = played(f"brain/{engine}"), played(f"fifty/{engine}")
        assert 0 < abs(found["losses"][0] - exact["losses"][0]) < 0.1
        assert found["model/0.weight"].dtype == torch.float32


def test_a_schedule_reaches_every_rank(played):
    one, two = played("scheduled/single"), played("scheduled/ddp")
    assert abs(one["losses"][1] - two["losses"][1]) < 1e-4
    assert apart(two, played("scheduled/ddp", 1), "model/") == 0
    assert apart(two, played("ten/ddp"), "model/0.weight") > 1e-4  # it is no constant


@deepspeed
@pytest.mark.parametrize("name", LONG)
def test_a_schedule_reaches_the_optimisers_of_zero(played, name):
    assert apart(played("scheduled/ddp"), played(f"scheduled/{name}"), "model/") == 0


@deepspeed
@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_steps_exactly_as_ddp(played, name):
    """With clipping off, which its default is not."""
    run = "fifty" if name in LONG else "ten"
    assert apart(played(f"{run}/ddp"), played(f"{run}/{name}"), "model/") == 0
    assert apart(played(f"{run}/ddp"), played(f"{run}/{name}"), "losses") == 0
    assert apart(played(f"{run}/{name}"), played(f"{run}/{name}", 1), "model/") == 0


@deepspeed
@pytest.mark.parametrize("run", ["clipped", "accumulated"])
@pytest.mark.parametrize("name", FULLY)
def test_deepspeed_clips_and_accumulates_as_ddp(played, name, run):
    assert apart(played(f"{run}/ddp"), played(f"{run}/{name}"), "model/") < 1e-5
    assert apart(played(f"{run}/ddp"), played(f"{run}/{name}"), "losses") < 1e-4


@deepspeed
@pytest.mark.parametrize("name", FULLY)
def test_deepspeed_scales_losses_as_ddp(played, name):
    """Parameters stay float32, so half precision is the same there too."""
    assert apart(played("half/ddp"), played(f"half/{name}"), "model/") < 1e-5
    assert apart(played("half/ddp"), played(f"half/{name}"), "scaler/") == 0
    assert apart(played("brain/ddp"), played(f"brain/{name}"), "model/") == 0


# ---- what an engine hands out and takes back leaves no trace ----


def same(one, other):
    names = [name for name in one if not name.startswith("gradient/")]
    assert len(names) > 10
    assert [n for n in names if not torch.equal(one[n], other[n])] == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_ddp_goes_on_bit_for_bit(played, ranks):
    """Over 3 ranks DDP would sum in another order after its first backward pass."""
    same(played(f"whole/ddp{ranks}"), played(f"resumed/ddp{ranks}"))


@deepspeed
@pytest.mark.parametrize("name", ZERO)
def test_each_rank_s_part_of_zero_comes_back(played, name):
    same(played("whole/ddp"), played(f"resumed/{name}"))


@pytest.mark.parametrize("name", ["exact/ddp2", "exact/ddp4"])
def test_exact_is_the_same_for_any_number_of_ranks(played, name):
    one = played("exact/single")
    same(one, played(name))
    same(one, played(name, 1))
    gradients = [n for n in one if n.startswith("gradient/")]
    assert [n for n in gradients if not torch.equal(one[n], played(name)[n])] == []
    assert one["model/1.num_batches_tracked"] == 24


def test_exact_goes_on_bit_for_bit(played):
    same(played("exact/single"), played("exact resumed/single"))
    same(played("exact/single"), played("exact resumed/ddp2"))
