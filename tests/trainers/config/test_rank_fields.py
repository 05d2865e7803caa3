"""Fields about engines and ranks: what goes together, what has no effect, what is in the name."""

import pytest

from trainers.canonical import make_config

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
DDP = LEAST | {"engine": "ddp", "ranks": 2}
ZERO = LEAST | {"engine": "deepspeed", "ranks": 2}
EXACT = {"elastic": "exact", "accumulate": 4}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LEAST | {"elastic": "order"}, LEAST),  # one process keeps its order anyway
        (LEAST | {"sync_batchnorm": False}, LEAST),
        (LEAST | {"engine": "ddp", "sync_batchnorm": False}, LEAST | {"engine": "ddp"}),
        (LEAST | {"zero_stage": 2, "offload": True}, LEAST),
        (DDP | {"zero_stage": 2, "offload": True}, DDP),
        (ZERO | {"offload": True}, ZERO),  # nothing is split, so nothing goes elsewhere
        (DDP | EXACT | {"sync_batchnorm": False}, DDP | EXACT),
        # what may change under way
        (DDP | {"elastic": "order"}, DDP | {"elastic": "order", "ranks": 4}),
        (DDP | {"elastic": "order"}, DDP | {"elastic": "order", "ranks": 1}),
        (DDP | EXACT, LEAST | EXACT),
        (DDP | EXACT, DDP | EXACT | {"ranks": 4}),
    ],
)
def test_spellings_of_one_ranks_setting_have_one_identity(one, other):
    assert make_config(one).identity == make_config(other).identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DDP, LEAST),
        (DDP, DDP | {"ranks": 4}),
        (DDP, ZERO),
        (DDP, DDP | {"sync_batchnorm": False}),
        (ZERO, ZERO | {"zero_stage": 1}),
        (ZERO | {"zero_stage": 1}, ZERO | {"zero_stage": 1, "offload": True}),
        (DDP | {"elastic": "order"}, DDP),
        # with one rank now, it may have more when it is resumed
        (
            DDP | {"elastic": "order", "ranks": 1, "sync_batchnorm": False},
            DDP | {"elastic": "order", "ranks": 1},
        ),
        (LEAST | EXACT, LEAST | {"accumulate": 4}),
        (LEAST | EXACT, LEAST | EXACT | {"accumulate": 8}),
    ],
)
def test_another_trial_another_name(one, other):
    assert make_config(one).identity != make_config(other).identity


REFUSED = [
    (LEAST | {"ranks": 2}, "ranks: 2 with engine `single`; choose 1, or engine `ddp`"),
    (LEAST | {"accumulate": 3}, "64 is not divisible by 3 micro-batches; nearest: 63 or 66"),
    (
        DDP | {"accumulate": 3},
        "batch_size: 64 is not divisible by 3 micro-batches of 2 ranks; nearest: 60 or 66",
    ),
    (
        DDP | {"ranks": 3} | EXACT,
        "accumulate: 4 is not divisible by 3 ranks (elastic: exact); nearest: 3 or 6",
    ),
    (LEAST | {"accumulate": 64}, "accumulate: 64 leaves micro-batches of 1 sample; choose at most"),
    (ZERO | {"elastic": "order"}, "elastic: `order` with engine `deepspeed`; choose off, or engin"),
    (LEAST | EXACT | {"cuda_graphs": True}, "cuda_graphs: true with elastic: exact"),
    (ZERO | {"zero_stage": 4}, "zero_stage: Input should be less than or equal to 3; got 4"),
    (LEAST | {"elastic": "exactly"}, "elastic: Input should be 'off', 'order' or 'exact'"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED)
def test_refusals_say_what_would_be_right(fields, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        make_config(fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_micro_batches_need_no_division_among_ranks():
    config = make_config(DDP | EXACT | {"ranks": 4, "batch_size": 12})
    assert config.batch_size // config.accumulate == 3
