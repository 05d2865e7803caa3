"""What has no effect has no part in a trial's name; what contradicts itself is refused."""

import pytest
import torch

from trainers.canonical import make_config, trial_fields
from trainers.objectives import OBJECTIVES, make_objective

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
UNTRAINED = {"epochs": 0}
OWN = {"data_seed": "per_seed"}
PCA = {"student": "teacher_pca:8"}
NOISY = {"arm": "noise", "views": 4}
TRAINING = [
    NOISY, {"objective": "mse", "target": "pca:4"}, {"objective": "supervised"}, {"lr": 0.5},
    {"optimizer": "sgd", "momentum": 0.5}, {"weight_decay": 0.1}, {"schedule": "cosine"},
    {"warmup": "5 steps"}, {"ema": 0.9}, {"precision": "bf16"}, {"compile": True},
    {"engine": "ddp", "ranks": 2}, {"accumulate": 2}, {"clip_norm": 1.0},
]  # fmt: skip


def same(one, other):
    return make_config(LEAST | one) == make_config(LEAST | other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"temperature": 0.2, "infonce_weight": 3.0}, {}),
        ({"objective": "cosine+koleo", "temperature": 0.2}, {"objective": "koleo+cosine"}),
        ({"objective": "mse", "koleo_weight": 3.0}, {"objective": "mse"}),
        ({"curve_samples": 10}, {}),
        ({"objective": "supervised"}, {"objective": "supervised", "target": "labels"}),
        ({"objective": "supervised", "temperature": 3.0}, {"objective": "supervised"}),
        ({"target": "whitened"}, {"target": "whitened:1e-4"}),
        ({"target": "pca:08"}, {"target": "pca:8"}),
        ({"student": "teacher_pca:08"}, {"student": "teacher_pca:8"}),
        ({"duration": "0 epochs"}, UNTRAINED),
        ({"objective": "none", "epochs": 30}, UNTRAINED),
        (PCA | {"objective": "none"}, PCA),
        (PCA | {"seed": 7}, PCA),
        (PCA | {"input": "teacher"}, PCA),
        (PCA | {"epochs": 30}, PCA | UNTRAINED),
        (PCA | {"duration": "50 steps"}, PCA),
        (PCA | {"curve_every": "1 steps"}, PCA),
        (UNTRAINED | {"cuda_graphs": True, "accumulate": 2}, UNTRAINED),
        *((UNTRAINED | change, UNTRAINED) for change in TRAINING),
        *((PCA | change, PCA) for change in TRAINING),
    ],
    ids=str,
)
def test_what_has_no_effect_has_no_part_in_the_name(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"objective": "cosine+infonce", "temperature": 0.2}, {"objective": "cosine+infonce"}),
        ({"objective": "cosine+koleo", "koleo_weight": 0.2}, {"objective": "cosine+koleo"}),
        ({"curve_every": "1 epochs"}, {}),
        ({"curve_every": "1 epochs", "curve_samples": 10}, {"curve_every": "1 epochs"}),
        (UNTRAINED | {"seed": 1}, UNTRAINED),
        (PCA | OWN | {"seed": 1}, PCA | OWN),  # its test noise is of that seed
        (UNTRAINED | {"input": "teacher"}, UNTRAINED),
        (UNTRAINED | {"batch_size": 32}, UNTRAINED),
        (PCA | {"classes": 5}, PCA),
        (PCA | {"test_views": 2}, PCA),
        (PCA, {"student": "teacher_pca:9"}),
        ({"classes": 5}, {}),
        ({"target": "pca:4"}, {"target": "pca:5"}),
        ({"duration": "0.5 epochs"}, UNTRAINED),
    ],
    ids=str,
)
def test_what_has_an_effect_is_another_trial(one, other):
    assert not same(one, other)


def test_no_training_is_no_epochs():
    for config in (make_config(LEAST | UNTRAINED), make_config(LEAST | PCA)):
        assert (config.epochs, config.duration, config.trains) == (0, None, False)
        assert config.total_steps(1000) == 0
        assert make_config(config.model_dump()) == config
    assert make_config(LEAST | {"duration": "3 steps"}).trains


def test_every_field_but_three_has_a_default():
    required = [name for name, field in trial_fields().items() if field.is_required()]
    assert required == ["dataset", "teacher", "student"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"duration": "0 steps"}, "duration: `0 steps` trains nothing; for an untrained student"),
        ({"duration": "0 sample"}, "write `epochs: 0`"),
        ({"target": "labels"}, "labels are for `supervised` alone"),
        (
            {"objective": "supervised", "target": "pca:4"},
            "target: `pca:4` with the objective `supervised`, which learns labels alone; leave",
        ),
        (
            {"objective": "infonce", "infonce_positive": "student", "views": 4},
            "views: `infonce` compares two views of each image; arm `clean` has 1: choose",
        ),
        (
            NOISY | {"objective": "infonce", "infonce_positive": "student", "cuda_graphs": True},
            "cuda_graphs: true with two views of each image; set it to false",
        ),
        *(
            (
                {"cuda_graphs": True, "accumulate": 4, "compile": compiled},
                "cuda_graphs: true with accumulate: 4; set cuda_graphs to false, or accumulate",
            )
            for compiled in (False, True)
        ),
        (
            {"objective": "infonce", "infonce_weight": 0},
            "infonce_weight: 0, so the loss of `infonce` is 0 whatever the student does; choose",
        ),
        (
            {"objective": "koleo+rkd", "koleo_weight": 0, "rkd_distance_weight": 0.0}
            | {"rkd_angle_weight": 0},
            "rkd_distance_weight and rkd_angle_weight and koleo_weight: 0, so the loss",
        ),
        ({"student": "teacher_pca"}, "write teacher_pca:K"),
        ({"student": "teacher_pca:0"}, "write teacher_pca:K, K a whole number of 1 or more"),
        ({"classes": 1}, "classes: Input should be greater than or equal to 2; got 1"),
        ({"vicreg_gamma": 0.0}, "vicreg_gamma: Input should be greater than 0"),
        ({"koleo_weight": -1.0}, "koleo_weight: Input should be greater than or equal to 0"),
        (PCA | {"lr": -1.0}, "lr: Input should be greater than 0"),  # idle, but checked
    ],
)
def test_combinations_that_mean_nothing_are_refused(change, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        make_config(LEAST | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_of_0_is_a_control_where_another_term_has_one():
    """Where nothing trains or no term reads the weight, it is no matter either."""
    for kept, fields in (
        ("cosine+koleo", {"objective": "cosine+koleo", "koleo_weight": 0}),
        ("sp+koleo", {"objective": "sp+koleo", "koleo_weight": 0}),
        ("theia", {"objective": "theia", "theia_smooth_l1_weight": 0}),
        ("cosine", {"objective": "koleo", "koleo_weight": 0, "epochs": 0}),
        ("cosine", {"objective": "cosine", "koleo_weight": 0}),
    ):
        assert make_config(LEAST | fields).objective == kept


def test_every_weight_of_an_objective_is_known_as_one():
    """With all at 0 the loss is 0; a new term whose weights are not named would slip through."""
    student_BD, teacher_BD = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    for name, term in OBJECTIVES.items():
        if name in OBJECTIVES.plugins:
            continue
        fields = term.fields.model_fields if term.fields else {}
        named = {field for field in fields if field.endswith("_weight")}
        assert set(term.weights) == named, name
        loss = make_objective(name, dict.fromkeys(named, 0.0))(student_BD, teacher_BD)
        assert (loss == 0) == bool(named), name
