"""What engines cannot do is said before any rank is started."""

import sys
from importlib.util import find_spec

import pytest
import timm
import torch

from trainers.engines import ENGINES, check_engine
from trainers.engines.launch import rank_of_environment
from trainers.runner import run_trial

CPU = torch.device("cpu")
TWO = {"engine": "ddp", "ranks": 2, "batch_size": 50}
deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_without_ranks_it_says_how_to_start_them(monkeypatch, engine):
    if engine == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert rank_of_environment() is None
    with pytest.raises(ValueError, match="MASTER_PORT"):
        ENGINES[engine](CPU)


def test_single_as_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="single"):
        ENGINES["single"](CPU)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (TWO | {"student": "teacher_pca:4"}, "the trial has 1; start it without torchrun$"),
        (TWO | {"epochs": 0}, "the trial has 1; start it without torchrun$"),
        ({}, "the trial has 1; start it without torchrun, or set `engine: ddp` and `ranks: 2`$"),
        (TWO | {"ranks": 5}, "the trial has 5; start 5$"),
    ],
)
def test_another_number_of_ranks_than_was_started(
    bank, make, tmp_path, monkeypatch, rank, fields, said
):
    """Every rank says so, and none begins: the first one would measure while the others fail."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"^ranks: 2 were started, {said}"):
        run_trial(make(**fields), bank, str(tmp_path))
    assert not list(tmp_path.iterdir())


@deepspeed
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_deepspeed_in_half_precision_needs_a_gpu(bank, make, tmp_path, precision):
    config = make(**TWO | {"engine": "deepspeed", "precision": precision})
    said = f"precision: {precision} with engine `deepspeed` needs a GPU; choose fp32, or engine"
    with pytest.raises(ValueError, match=said):
        run_trial(config, bank, str(tmp_path))


def test_without_deepspeed_the_install_line_is_given(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    said = r"DeepSpeed is not installed; pip install '\.\[deepspeed\]'"
    with pytest.raises(ValueError, match=said):
        check_engine(make(**TWO | {"engine": "deepspeed"}), CPU)
    with pytest.raises(ValueError, match=said):
        ENGINES["deepspeed"](CPU)


def test_each_rank_has_a_gpu_of_its_own(make):
    count = torch.cuda.device_count()
    config = make(**TWO | {"ranks": 50})
    with pytest.raises(
        ValueError, match=f"ranks: 50, each needs a GPU of its own; this machine has {count}"
    ):
        check_engine(config, torch.device("cuda"))


def test_ranks_are_not_put_on_one_gpu(make):
    said = "device `cuda:1` with engine `ddp`: rank N takes GPU N"
    with pytest.raises(ValueError, match=said):
        check_engine(make(**TWO), torch.device("cuda", 1))


@pytest.mark.parametrize(
    ("student", "rate"),
    [("timm:resnet18", "drop_path_rate"), ("timm:vit_tiny_patch16_224", "attn_drop_rate")],
)
def test_exact_refuses_what_drops_at_random(make, student, rate):
    config = make(student=student, elastic="exact", accumulate=2)
    model = timm.create_model(student[5:], **{rate: 0.1})
    said = r"elastic: exact: the student's layer `\S+` has dropout"
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match=said):
        ENGINES["single"](CPU).prepare(model, optimizer, config)
    plain = timm.create_model(student[5:])
    ENGINES["single"](CPU).prepare(plain, torch.optim.SGD(plain.parameters()), config)


def test_gpus_are_counted_for_the_ranks_of_this_machine_alone(monkeypatch, make):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    config, gpu = make(engine="ddp", ranks=4, batch_size=64), torch.device("cuda")
    with pytest.raises(ValueError, match="ranks: 4, each needs a GPU of its own; this machine has"):
        check_engine(config, gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_engine(config, gpu)
