"""The fields of a trial that say how it is trained: one spelling, one line an error."""

from __future__ import annotations

import pytest

from trainers.canonical import make_config

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"momentum": 0.5}, {}),  # adam has none
        ({"optimizer": "adamw", "momentum": 0.5}, {"optimizer": "adamw"}),
        ({"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "sgd"}),
        ({"warmup": "0 epochs"}, {}),
        ({"warmup": "0.0 epochs"}, {"warmup": "0 samples"}),
        ({"warmup": "1.50 epoch"}, {"warmup": "1.5 epochs"}),
        ({"duration": "5 epochs"}, {}),
        ({"duration": "5.0 epoch"}, {}),
        ({"duration": "10 step"}, {"duration": "10 steps"}),
        ({"engine": "deepspeed", "channels_last": False}, {"engine": "deepspeed"}),
        ({"weight_decay": -0.0}, {}),
    ],
)
def test_spellings_of_one_training_have_one_identity(one, other):
    assert make_config(LEAST | one).identity == make_config(LEAST | other).identity


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"optimizer": "muon"},
        {"weight_decay": 0.1},
        {"schedule": "cosine"},
        {"warmup": "1 epochs"},
        {"ema": 0.99},
        {"precision": "bf16"},
        {"channels_last": False},
        {"compile": True},
        {"cuda_graphs": True},
        {"duration": "5 steps"},
        {"duration": "4.5 epochs"},
        {"curve_every": "1 epochs"},
    ],
)
def test_another_trial_has_another_name(change):
    assert make_config(LEAST | change).identity != make_config(LEAST).identity


def test_momentum_counts_where_there_is_some():
    names = {
        make_config(LEAST | {"optimizer": name, "momentum": m}).identity
        for name in ("sgd", "muon")
        for m in (0.0, 0.5, 0.9)
    }
    assert len(names) == 6


REFUSED = [
    ({"optimizer": "adamm"}, "unknown optimizer `adamm`; did you mean `adam`? valid: adam, adamw,"),
    ({"momentum": 1.0}, "momentum: Input should be less than 1"),
    ({"weight_decay": -0.1}, "weight_decay: Input should be greater than or equal to 0"),
    ({"schedule": "cosin"}, "schedule: Input should be 'constant' or 'cosine'; got 'cosin'"),
    ({"epochs": None}, "epochs and duration: both are null; give one, such as `epochs: 5`"),
    ({"epochs": None, "duration": None}, "epochs and duration: both are null"),
    ({"curve_every": "5 weeks"}, "curve_every: `5 weeks`: write a number and its unit"),
    ({"probe_at": ["1 epochs", "soon"]}, "probe_at: `soon`: write a number and its unit"),
    ({"warmup": "5"}, "warmup: `5`: write a number and its unit, such as `5 epochs`"),
    ({"warmup": 5}, "warmup: Input should be a valid string; got 5"),
    ({"ema": 1.0}, "ema: Input should be less than 1"),
    ({"precision": "fp8"}, "precision: Input should be 'fp32', 'bf16' or 'fp16'; got 'fp8'"),
    ({"compile": "yes"}, "compile: Input should be a valid boolean; got 'yes'"),
    ({"duration": "many"}, "duration: `many`: write a number and its unit"),
    ({"duration": 7}, "duration: Input should be a valid string; got 7"),
    ({"duration": "5 steps", "epochs": 5}, "epochs and duration: both are given; keep one"),
    (
        {"engine": "ddp", "ranks": 2, "cuda_graphs": True},
        "cuda_graphs: true with engine `ddp`; choose `single`",
    ),
    (
        {"engine": "deepspeed", "zero_stage": 1, "optimizer": "muon"},
        "optimizer: `muon` needs whole matrices, zero_stage 1 cuts them; choose zero_stage 0",
    ),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_refusals_are_one_line_that_says_what_is_right(change, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_config(LEAST | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
