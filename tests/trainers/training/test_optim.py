"""Optimisers against torch's own and against their formulas; the learning rate's course."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from trainers.engines.stepper import load_optimizer, optimizer_arrays
from trainers.students import build_student
from trainers.training.eager import eager
from trainers.training.learning_rate import Schedule, set_learning_rate
from trainers.training.muon import Muon, hidden_matrices, orthogonalised
from trainers.training.optim import OPTIMIZERS


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 1, groups=2),
        nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 5),
    )  # fmt: skip


def walk(model, optimizer, steps=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 6, 6, generator=generator)).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


KINDS = [
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (Muon, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_optimisers_without_the_compiler_compute_what_those_of_torch_do(kind, options):
    """Also from a state that is loaded, and with hooks."""
    walked, states, calls = [], [], []
    for cls in (kind, eager(kind)):
        model = small()
        groups = [{"params": [w]} for w in model.parameters()]
        optimizer = cls(groups, lr=1e-3, **options)
        walk(model, optimizer)
        again = cls([{"params": [w]} for w in model.parameters()], lr=0.5, **options)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        again.register_step_post_hook(lambda *_, cls=cls: calls.append(cls))
        walked.append(walk(model, again))
        states.append(again.state_dict())
        assert torch.is_grad_enabled()
        again.zero_grad()
        assert all(w.grad is None for w in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(*walked, strict=True))
    assert all(weight.isfinite().all() for weight in walked[0])
    assert str(states[0]) == str(states[1])
    assert calls == [kind] * 4 + [eager(kind)] * 4
    assert issubclass(eager(kind), kind)


def decays(optimizer, model):
    """{parameter name: its weight decay}."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_weight_is_in_one_group_and_vectors_do_not_decay(make, name):
    for model in (small(), build_student("width:1", 16, 8, 0), nn.Linear(2, 2, bias=False)):
        optimizer = OPTIMIZERS[name](model, make(optimizer=name, weight_decay=0.1))
        found = decays(optimizer, model)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(list(model.parameters())) == len(found)
        for parameter, weight in model.named_parameters():
            assert found[parameter] == (0.1 if weight.ndim > 1 else 0.0)


def test_frozen_weights_are_left_out(make):
    model = small()
    model[5].weight.requires_grad_(False)
    for name in OPTIMIZERS:
        held = decays(OPTIMIZERS[name](model, make(optimizer=name)), model)
        assert "5.weight" not in held
        assert "5.bias" in held


PLAIN = {
    "adam": lambda p, d: torch.optim.Adam(p, lr=0.01, weight_decay=d),
    "adamw": lambda p, d: torch.optim.AdamW(p, lr=0.01, weight_decay=d),
    "sgd": lambda p, d: torch.optim.SGD(p, 0.01, 0.7, weight_decay=d, nesterov=True),
}


@pytest.mark.parametrize("name", PLAIN)
def test_without_decay_it_is_torchs_own_bit_for_bit(make, name):
    one, other = small(), small()
    config = make(optimizer=name, lr=0.01, momentum=0.7)
    ours = walk(one, OPTIMIZERS[name](one, config))
    theirs = walk(other, PLAIN[name](list(other.parameters()), 0.0))
    assert all(map(torch.equal, ours, theirs))


def test_sgd_without_momentum_is_a_step_down_the_gradient(make):
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = OPTIMIZERS["sgd"](model, make(optimizer="sgd", momentum=0.0, lr=0.5))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before - 0.5)
    assert optimizer_arrays(optimizer) == {}


# ---- Muon ----


def test_muon_takes_hidden_matrices_and_adamw_the_rest(make):
    model = small()
    assert hidden_matrices(model) == [model[2].weight, model[5].weight]
    student = build_student("width:1", 16, 8, 0)
    shapes = [tuple(w.shape) for w in hidden_matrices(student)]
    assert shapes == [(32, 16, 3, 3), (64, 32, 3, 3), (512, 1024)]
    assert hidden_matrices(nn.Linear(2, 2)) == []


def test_its_adamw_is_torchs(make):
    """In float64, where the order of operations shows in the last bits only."""
    one, other = small().double(), small().double()
    everything = [{"params": list(one.parameters()), "weight_decay": 0.1}]
    wide = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    ours = Muon(everything, lr=0.01, momentum=0.9)
    for _ in range(20):
        for model, optimizer in ((one, ours), (other, wide)):
            state = generator.get_state()
            for p in model.parameters():
                p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            optimizer.step()
            if model is one:
                generator.set_state(state)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (16, 16), (1, 7)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    x_MN = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(x_MN, full_matrices=False)
    y_MN = orthogonalised(1000 * x_MN)
    assert torch.allclose(y_MN, orthogonalised(x_MN), atol=1e-6)  # blind to length
    assert y_MN.dtype == torch.float64
    core = u.T @ y_MN @ v.T
    kept = s > s.max() / 100  # tiny ones take more than five iterations
    assert (core.diagonal()[kept] > 0.6).all()
    assert (core.diagonal() < 1.25).all()
    assert (core - core.diagonal().diag()).abs().max() < 1e-6


def test_a_muon_step_is_its_formula(make):
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)).double()
    config = make(optimizer="muon", lr=0.1, momentum=0.8, weight_decay=0.5)
    optimizer = OPTIMIZERS["muon"](model, config)
    w = model[1].weight.detach().clone()
    mean = torch.zeros_like(w)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, dtype=torch.float64)).square().sum().backward()
        grad = model[1].weight.grad.clone()
        optimizer.step()
        mean = 0.8 * mean + 0.2 * grad
        step = 0.2 * math.sqrt(8) * orthogonalised(0.2 * grad + 0.8 * mean)
        w = w - 0.1 * (0.5 * w + step)
        assert torch.allclose(model[1].weight, w, atol=1e-12)


def test_torchs_own_muon_agrees_where_it_can():
    """It iterates in bfloat16 and takes 2-D weights only."""
    own = getattr(torch.optim, "Muon", None)
    assert own is not None  # from torch 2.9 on
    one, other = nn.Linear(12, 20, bias=False), nn.Linear(12, 20, bias=False)
    other.load_state_dict(one.state_dict())
    group = {"params": [one.weight], "weight_decay": 0.1, "orthogonal": True}
    ours = Muon([group], lr=0.1, momentum=0.9)
    options = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    theirs = own([other.weight], **options)
    for _ in range(3):
        grad = torch.randn(20, 12)
        for layer, optimizer in ((one, ours), (other, theirs)):
            layer.weight.grad = grad.clone()
            optimizer.step()
    moved = (one.weight - other.weight).norm() / one.weight.norm()
    assert moved < 0.02


def test_kernels_are_matrices_in_any_memory_layout(make):
    one = small()
    other = copy.deepcopy(one).to(memory_format=torch.channels_last)
    for model in (one, other):
        generator = torch.Generator().manual_seed(2)
        optimizer = OPTIMIZERS["muon"](model, make(optimizer="muon", lr=0.1))
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            optimizer.step()
    assert not other[2].weight.is_contiguous()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_state_is_arrays_and_comes_back(make, name):
    config = make(optimizer=name, weight_decay=0.1)
    model = small()
    optimizer = OPTIMIZERS[name](model, config)
    walk(model, optimizer)
    twin = copy.deepcopy(model)
    again = OPTIMIZERS[name](twin, config)
    load_optimizer(again, {n: t.clone() for n, t in optimizer_arrays(optimizer).items()})
    assert optimizer_arrays(optimizer)
    assert all(map(torch.equal, walk(model, optimizer), walk(twin, again)))


# ---- the learning rate ----


def test_warmup_and_cosine_learning_rates(make):
    config = make(lr=2.0, schedule="cosine", warmup="3 steps", duration="11 steps", epochs=None)
    rate = Schedule.of(config, 1000)
    assert [rate(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert rate(7) == pytest.approx(1.0)
    assert rate(5) == pytest.approx(1 + math.cos(math.pi / 4))
    assert 0 < rate(10) < 0.1
    assert all(rate(step) > rate(step + 1) for step in range(3, 10))
    flat = Schedule.of(make(lr=2.0, warmup="128 samples"), 1000)
    assert [flat(step) for step in range(5)] == [2 / 3, 4 / 3, 2.0, 2.0, 2.0]


def test_a_constant_schedule_is_the_learning_rate(make):
    assert {Schedule.of(make(lr=0.1), 1000)(step) for step in (0, 1, 74)} == {0.1}


def test_the_rate_reaches_every_group(make):
    optimizer = OPTIMIZERS["muon"](small(), make(optimizer="muon"))
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25] * 3
