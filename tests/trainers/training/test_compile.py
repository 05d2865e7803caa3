"""Memory layout, torch.compile and CUDA graphs change how, not what."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
import weakref

import pytest
import torch
from torch.amp import GradScaler

from tests.trainers.small_runs import CPU, data_of, left_at, run, same, weights
from trainers.objectives import cosine
from trainers.students import build_student
from trainers.training import compile as speed
from trainers.training.compile import apply_performance_options, eager
from trainers.training.divergence import DivergedError
from trainers.training.ema import MovingAverage


def built(config):
    model = build_student("width:1", 16, 8, 0)
    apply_performance_options(model, config, CPU, 8)
    return model


def test_the_layout_is_as_asked(make):
    for asked in (True, False):
        model = built(make(channels_last=asked))
        kernel = model.trunk[4].weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == asked
        assert kernel.is_contiguous() != asked


def test_deepspeed_takes_plain_weights(make):
    config = make(engine="deepspeed", ranks=1)
    assert built(config).trunk[4].weight.is_contiguous()


def test_both_layouts_give_the_same_student_nearly(make, bank, tmp_path):
    data = data_of(bank)
    one, other = (
        weights(run(make(channels_last=c, optimizer="sgd", lr=0.1), data, tmp_path / str(c)))
        for c in (True, False)
    )
    for name, tensor in one.items():
        assert torch.allclose(tensor.float(), other[name].float(), atol=1e-4), name


def test_cuda_graphs_without_cuda_are_refused_in_a_line(make):
    with pytest.raises(ValueError, match="cuda_graphs"):
        built(make(cuda_graphs=True))


@pytest.fixture
def graphed(make, monkeypatch):
    """A model on the CPU whose `forward` is replaced as torch.cuda.make_graphed_callables does."""
    replays = []

    def make_graphed_callables(model, samples):
        reference, before, mode = weakref.ref(model), type(model).forward, model.training

        def new_fwd(*args):
            module = reference()
            if module is None:
                raise RuntimeError("the graphed module has been freed")
            replays.extend([module] if module.training == mode else [])
            return before(module, *args)

        model.forward = new_fwd

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    model = build_student("width:1", 16, 8, 0)
    speed._use_graphs(model, make(cuda_graphs=True), CPU, 8)
    return model, replays


def test_a_copy_of_a_graphed_model_computes_with_its_own_weights(graphed):
    model, replays = graphed
    images_BCHW = torch.randn(4, 3, 8, 8)
    assert model(images_BCHW).shape == (4, 16)
    assert replays == [model]
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    again = copy.deepcopy(average.student)  # as it is recalibrated
    plain = build_student("width:1", 16, 8, 0)
    plain.load_state_dict(again.state_dict())
    for copied in (average.student, again):
        expected = copy.deepcopy(plain).eval()(images_BCHW)
        assert torch.equal(copied.eval()(images_BCHW), expected)
        assert not torch.equal(copied(images_BCHW), model.eval()(images_BCHW))
        copied.train()(images_BCHW)
    assert replays == [model]
    assert list(again.state_dict()) == list(model.state_dict())


def test_a_copy_outlives_the_graphed_model(graphed):
    model, replays = graphed
    copied = copy.deepcopy(model)
    replays.clear()
    del model
    assert copied(torch.zeros(2, 3, 8, 8)).shape == (2, 16)


def test_bf16_learns_the_same(make, bank, tmp_path):
    data = data_of(bank)
    curves = [
        run(make(precision=p, epochs=2), data, tmp_path / p, seconds=1e9).epochs
        for p in ("fp32", "bf16")
    ]
    losses = [[row["loss"] for row in curve] for curve in curves]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_bf16_resumes_bitwise(make, bank, tmp_path):
    data, config = data_of(bank), make(precision="bf16", epochs=2, ema=0.5)
    whole = left_at(6, config, data, tmp_path / "whole")
    for stop in (2, 4):
        broken = left_at(stop, config, data, tmp_path / "broken")
    assert broken.step == 6
    assert same(whole.arrays, broken.arrays)
    assert whole.arrays["model/trunk.0.weight"].dtype == torch.float32  # its master copy


@pytest.mark.thorough
def test_fp16_resumes_bitwise_with_its_loss_scale(make, bank, tmp_path):
    data = data_of(bank)
    config = make(precision="fp16", epochs=2, ema=0.5, optimizer="sgd", lr=0.1)
    start, at = GradScaler("cpu").get_scale(), "rank/0/scaler/"
    whole = left_at(6, config, data, tmp_path / "whole", objective=overflowing(0))
    for stop, first in ((1, 0), (3, 1), (2, 4)):
        broken = left_at(stop, config, data, tmp_path / "broken", objective=overflowing(first))
        assert broken.arrays[at + "scale"] == (start / 2 if broken.step > 2 else start)
    assert broken.step == 6
    assert same(whole.arrays, broken.arrays)
    assert whole.arrays[at + "_growth_tracker"] == 3  # steps since the overflow in the third


def overflowing(first):
    """The objective from step `first` on; in the third step its gradient is beyond float32."""
    steps = itertools.count(first)

    def objective(student_BD, teacher_BD):
        loss = cosine(student_BD, teacher_BD)
        if next(steps) != 2:
            return loss
        return loss + 1e38 * (student_BD - student_BD.detach()).sum()

    return objective


def test_fp16_with_a_loss_that_is_infinite_is_divergence(make, bank, tmp_path):
    """Not passed over like gradients that overflow."""

    def objective(student_BD, teacher_BD):
        return cosine(student_BD, teacher_BD) + torch.inf

    with pytest.raises(DivergedError, match="step 1"):
        run(make(precision="fp16"), data_of(bank), tmp_path, objective=objective)


@pytest.mark.slow
def test_compiled_it_keeps_its_names_and_learns_the_same(make, bank, tmp_path):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    data = data_of(bank)
    config = make(epochs=2, compile=True)
    whole = left_at(6, config, data, tmp_path / "whole")
    left_at(4, config, data, tmp_path / "broken")
    broken = left_at(2, config, data, tmp_path / "broken")
    assert same(whole.arrays, broken.arrays)
    plain = left_at(6, make(epochs=2), data, tmp_path / "plain")
    assert plain.arrays.keys() == whole.arrays.keys()
    for row, other in zip(plain.values["curve"], whole.values["curve"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-3)


def test_what_is_measured_runs_as_written(make, monkeypatch):
    """`compile` is asked of torch; inside `eager` the compiled function is not called."""
    calls = []

    def backend(graph, inputs):
        calls.append("compiled")
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **o: real(model, backend=backend))
    config = make(compile=True)
    model = built(config)
    names = list(model.state_dict())
    images_BCHW = torch.zeros(2, 3, 8, 8)
    with eager(config), torch.no_grad():
        expected = model(images_BCHW)
    assert calls == []
    with torch.no_grad():
        found = model(images_BCHW)
    assert calls
    assert torch.allclose(expected, found, atol=1e-6)
    assert list(model.state_dict()) == names
    assert list(copy.deepcopy(model).state_dict()) == names
