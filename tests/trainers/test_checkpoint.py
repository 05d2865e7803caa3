"""Checkpoints: bitwise, two kept, any damage seen, never half visible, never pickled."""

import json
import random
import resource

import pytest
import torch
from torch import nn

from shards import storage
from trainers.checkpoint import ARRAYS, MANIFEST, RECORD, Checkpoints, State, capture, restore
from trainers.engines.state import load_optimizer, optimizer_arrays


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
    return capture(model, [optimizer_arrays(optimizer)])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def kept(tmp_path):
    """Two checkpoints, of steps 3 and 6."""
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), "me")
    for at in (3, 6):
        checkpoints.save(State(at, arrays_of(*trained(at)), {"curve": [{"loss": 0.1 + at}]}))
    return checkpoints, tmp_path / "checkpoints"


def test_round_trip_goes_on_bitwise(tmp_path):
    model, optimizer = trained(5)
    checkpoints = Checkpoints(str(tmp_path), "me")
    state = State(5, arrays_of(model, optimizer), {"curve": [{"loss": 0.1}, {"loss": 1e-300}]})
    checkpoints.save(state)
    step(model, optimizer, 4)  # dropout draws from the generator as well
    expected = arrays_of(model, optimizer)
    assert not same(expected, state.arrays)  # a copy was taken, not views of what goes on
    saved = Checkpoints(str(tmp_path), "me").latest()
    assert saved.step == 5
    assert saved.values == state.values
    assert same(saved.arrays, state.arrays)
    other, its_optimizer = trained(1, seed=9)
    load_optimizer(its_optimizer, restore(saved.arrays, other)[0])
    step(other, its_optimizer, 4)
    assert same(arrays_of(other, its_optimizer), expected)


def test_two_are_kept(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "c"), "me")
    assert checkpoints.latest() is None
    arrays = arrays_of(*trained(1))
    for at in (1, 2, 3, 4):
        checkpoints.save(State(at, arrays, {}))
    assert checkpoints.steps() == [3, 4]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-00000003", "step-00000004"]
    checkpoints.clear()
    assert checkpoints.steps() == []


def test_tensors_that_share_memory_are_saved(tmp_path):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    checkpoints = Checkpoints(str(tmp_path), "me")
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
    assert said.startswith("warning: checkpoint passed over: ")
    assert "step-00000006" in said
    assert said.count("\n") == 1


def test_every_bit_counts(kept, capsys):
    checkpoints, folder = kept
    rng = random.Random(0)
    files = [folder / "step-00000006" / name for name in (ARRAYS, RECORD, MANIFEST)]
    for _ in range(200):
        file = rng.choice(files)
        whole = file.read_bytes()
        bit = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert checkpoints.latest().step == 3, (file.name, bit)
        file.write_bytes(whole)
    assert checkpoints.latest().step == 6
    assert capsys.readouterr().err.count("warning") == 200


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


def test_another_trials_are_passed_over(kept, capsys):
    _, folder = kept
    other = Checkpoints(str(folder), "you")
    assert other.latest() is None
    assert "owner is 'me', expected 'you'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="owner is 'me', expected 'you'"):
        other.load(3)


def test_another_format_is_passed_over(kept, capsys, monkeypatch):
    checkpoints, _ = kept
    monkeypatch.setattr("trainers.checkpoint.FORMAT", "checkpoint/9")
    assert checkpoints.latest() is None
    assert "format is 'checkpoint/2', expected 'checkpoint/9'" in capsys.readouterr().err


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


@pytest.mark.parametrize("at", range(1, 5))
def test_an_interrupted_save_is_never_visible(kept, monkeypatch, at):
    """The write breaks at its 1st to 4th fsync; KeyboardInterrupt stands for a sudden end."""
    checkpoints, folder = kept
    calls = 0
    real = storage.os.fsync

    def fsync(handle):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(storage.os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(State(9, arrays_of(*trained(9)), {}))
    monkeypatch.undo()
    assert checkpoints.steps() == [3, 6]
    assert checkpoints.latest().step == 6
    checkpoints.save(State(9, arrays_of(*trained(9)), {}))
    assert checkpoints.steps() == [6, 9]
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.faults
def test_a_full_disk_keeps_the_old_and_leaves_nothing(kept):
    checkpoints, folder = kept
    state = State(9, arrays_of(*trained(9)), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"no space to write .*bytes needed.*bytes free"):
            checkpoints.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000003", "step-00000006"]
    assert checkpoints.latest().step == 6
