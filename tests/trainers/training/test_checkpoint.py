"""Checkpoints: bitwise, two kept, another trial's refused, never half visible, never pickled."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from shards.support import retry, storage
from tests.trainers.small_runs import same
from trainers.engines.stepper import load_optimizer, optimizer_arrays
from trainers.training.checkpoint import (
    ARRAYS,
    MANIFEST,
    RECORD,
    Checkpoints,
    ForeignError,
    State,
    capture,
    owner_of,
    restore,
    step_of,
)
from trainers.training.rng_state import random_arrays, restore_random, seed_all

CPU = torch.device("cpu")
OWNER = {"student": "width:1", "lr": 0.1, "arms": ("a", "b"), "source": "s"}


def trained(steps: int, seed: int = 0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step(model, optimizer, steps)
    return model, optimizer


def step(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()


def arrays_of(model, optimizer):
    return capture({"model": model}, [optimizer_arrays(optimizer) | random_arrays(CPU)])


@pytest.fixture
def kept(tmp_path):
    """Two checkpoints, of steps 3 and 6."""
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), OWNER)
    for at in (3, 6):
        checkpoints.save(State(at, arrays_of(*trained(at)), {"curve": [{"loss": 0.1 + at}]}))
    return checkpoints, tmp_path / "checkpoints"


def test_round_trip_goes_on_bitwise(tmp_path):
    model, optimizer = trained(5)
    checkpoints = Checkpoints(str(tmp_path), OWNER)
    state = State(5, arrays_of(model, optimizer), {"curve": [{"loss": 0.1}, {"loss": 1e-300}]})
    checkpoints.save(state)
    step(model, optimizer, 4)  # dropout draws from the generator as well
    expected = arrays_of(model, optimizer)
    assert not same(expected, state.arrays)  # a copy was taken, not views of what goes on
    saved = Checkpoints(str(tmp_path), OWNER).latest()
    assert saved.step == 5
    assert saved.values == state.values
    assert same(saved.arrays, state.arrays)
    other, its_optimizer = trained(1, seed=9)
    (own,) = restore(saved.arrays, {"model": other})
    load_optimizer(its_optimizer, {n: t for n, t in own.items() if n.startswith("optimizer/")})
    restore_random(own, CPU)
    step(other, its_optimizer, 4)
    assert same(arrays_of(other, its_optimizer), expected)


def test_modules_and_ranks_keep_apart():
    one, other, third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    ranks = [{"a": torch.tensor([float(rank)])} for rank in range(12)]
    arrays = capture({"model": one, "average": other}, ranks)
    assert restore(arrays, {"average": third}) == ranks  # in the order of numbers, not of names
    assert same(dict(third.state_dict()), dict(other.state_dict()))
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight"'):
        restore(arrays, {"teacher": third})


def test_every_generator_comes_back():
    def draw():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    seed_all(5, 0)
    np.random.standard_normal()  # leaves a second variate in wait
    random.gauss(0, 1)
    arrays = random_arrays(CPU)
    expected = draw(), np.random.standard_normal(), random.gauss(0, 1)
    assert draw() != expected[0]
    restore_random(arrays, CPU)
    assert (draw(), np.random.standard_normal(), random.gauss(0, 1)) == expected
    assert {t.dtype for t in arrays.values()} == {torch.uint8}
    assert json.loads(bytes(arrays["random/numpy"].tolist()))["bit_generator"] == "MT19937"


def test_seeds_hang_on_trial_and_rank_alone():
    def drawn(seed, rank):
        seed_all(seed, rank)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert drawn(3, 0) == drawn(3, 0)
    found = [drawn(*pair) for pair in ((3, 0), (3, 1), (4, 0), (2**63 - 1, 0))]
    assert all(len(set(column)) == 4 for column in zip(*found, strict=True))


def test_the_last_two_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "c"), OWNER)
    assert checkpoints.latest() is None
    arrays = arrays_of(*trained(1))
    for at in (1, 2, 3, 4):
        checkpoints.save(State(at, arrays, {}))
    assert checkpoints.steps() == [3, 4]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-00000003", "step-00000004"]


def test_what_a_killed_save_left_is_cleared_away(kept):
    checkpoints, folder = kept
    partial = folder / ".step-00000009.4711.tmp"
    partial.mkdir()
    (partial / ARRAYS).write_bytes(b"half")
    assert checkpoints.latest().step == 6
    checkpoints.save(State(9, {}, {}))
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000006", "step-00000009"]


def test_tensors_that_share_memory_are_saved(tmp_path):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    checkpoints = Checkpoints(str(tmp_path), OWNER)
    checkpoints.save(State(1, arrays_of(model, torch.optim.Adam(model.parameters())), {}))
    assert checkpoints.latest().step == 1


@pytest.mark.parametrize("name", [ARRAYS, RECORD, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_damage_means_the_previous_one(kept, capsys, name, damage):
    checkpoints, folder = kept
    file = folder / "step-00000006" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b""}[damage])
    assert checkpoints.latest().step == 3
    said = capsys.readouterr().err
    assert said.startswith("warning: checkpoint skipped: ")
    assert "step-00000006" in said
    assert said.count("\n") == 1


def test_damage_everywhere_means_none(kept, capsys):
    checkpoints, folder = kept
    for at in (3, 6):
        (folder / f"step-{at:08d}" / RECORD).write_text("{}")
    assert checkpoints.latest() is None
    assert capsys.readouterr().err.count("state.json") == 2


def test_a_damaged_newer_one_does_not_count_among_the_two(kept):
    checkpoints, folder = kept
    (folder / "step-00000006" / ARRAYS).write_bytes(b"")
    arrays = checkpoints.latest().arrays
    for at in (4, 5):
        checkpoints.save(State(at, arrays, {}))
    assert checkpoints.steps() == [4, 5]


# ---- of several holders of the trial's lease, on an object store ----


class Holder:
    """What a lease on an object store gives to the names of checkpoints."""

    def __init__(self, generation):
        self.suffix = f".{generation:08d}"
        self.publish_folder, self.discard = storage.write_folder, storage.delete


def test_a_later_holders_checkpoint_is_newer_whatever_its_step(tmp_path):
    first, second = (Checkpoints(str(tmp_path), OWNER, Holder(n)) for n in (1, 2))
    arrays = arrays_of(*trained(1))

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    for at in (2, 4):
        first.save(State(at, arrays, {}))
    assert second.latest().step == 4
    second.save(State(5, arrays, {}))
    first.save(State(8, arrays, {}))  # late: it does not know yet that it was replaced
    assert names() == ["step-00000004.00000001", "step-00000005.00000002", "step-00000008.00000001"]
    assert first.latest().step == second.latest().step == 5
    second.save(State(8, arrays, {"of": "second"}))
    assert names() == ["step-00000005.00000002", "step-00000008.00000002"]
    assert second.load(8, 2).values["of"] == "second"


def test_other_names_are_no_checkpoints():
    assert step_of("step-00000012.00000003") == 12
    with pytest.raises(ValueError, match="`step-x`: not the name of a checkpoint"):
        step_of("step-x")


# ---- whole, but not this trial's ----


def test_another_trials_is_refused_by_the_fields_that_differ(kept):
    _, folder = kept
    other = Checkpoints(str(folder), OWNER | {"lr": 0.2, "engine": "ddp"})
    for find in (other.latest, lambda: other.load(3)):
        with pytest.raises(ForeignError) as caught:
            find()
        assert str(caught.value).endswith(
            ": a checkpoint of another trial: engine is None, expected 'ddp'; lr is 0.1, "
            "expected 0.2; choose another --out or delete it"
        )


def test_a_damaged_one_of_another_trial_is_damaged(kept, capsys):
    """The sums come first: a flipped bit is never read as another trial's name."""
    checkpoints, folder = kept
    file = folder / "step-00000006" / RECORD
    file.write_text(file.read_text().replace("width:1", "width:2"))
    assert checkpoints.latest().step == 3
    assert "the sha256 of state.json" in capsys.readouterr().err


def test_another_format_is_refused(kept, monkeypatch):
    checkpoints, _ = kept
    monkeypatch.setattr("trainers.training.checkpoint.FORMAT", "checkpoint/9")
    with pytest.raises(ForeignError, match="format is 'checkpoint/3', expected 'checkpoint/9'"):
        checkpoints.latest()


def test_a_changed_format_in_the_manifest_alone_is_damage(kept, capsys):
    checkpoints, folder = kept
    file = folder / "step-00000006" / MANIFEST
    file.write_text(file.read_text().replace("checkpoint/3", "checkpoint/2"))
    assert checkpoints.latest().step == 3
    assert "manifest.json is damaged" in capsys.readouterr().err


def test_ranks_may_differ_where_the_trial_is_elastic(make):
    two, four = (make(engine="ddp", ranks=ranks) for ranks in (2, 4))
    assert owner_of(two) != owner_of(four)
    two, four = (c.model_copy(update={"elastic": "order"}) for c in (two, four))
    assert owner_of(two) == owner_of(four)
    assert owner_of(two, "a") != owner_of(two, "b")
    pinned = two.model_copy(update={"teacher_dim": 512})
    assert owner_of(pinned) == owner_of(two)


def test_a_renamed_one_is_passed_over(kept):
    checkpoints, folder = kept
    (folder / "step-00000006").rename(folder / "step-00000009")
    assert checkpoints.latest().step == 3


def test_nothing_is_pickled(kept):
    _, folder = kept
    place = folder / "step-00000006"
    assert sorted(p.name for p in place.iterdir()) == sorted([ARRAYS, RECORD, MANIFEST])
    for name in (RECORD, MANIFEST):
        json.loads((place / name).read_bytes())
    arrays = (place / ARRAYS).read_bytes()
    header = json.loads(arrays[8 : 8 + int.from_bytes(arrays[:8], "little")])
    assert "model/0.weight" in header
    assert not arrays.startswith((b"PK", b"\x80"))


def test_what_cannot_be_read_is_tried_again_and_then_one_line(kept, monkeypatch):
    """An older checkpoint would cost hours; a mount that stumbles is no damage."""
    checkpoints, _ = kept
    calls = 0

    def read_bytes(path):
        nonlocal calls
        calls += 1
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("pathlib.Path.read_bytes", read_bytes)
    with pytest.raises(OSError, match="step-00000006"):
        checkpoints.latest()
    assert calls == 3
