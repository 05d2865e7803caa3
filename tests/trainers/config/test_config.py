"""TrialConfig: one name a trial, one spelling a value, one line an error."""

import hashlib
import json

import pytest

from trainers.canonical import load_config, make_config
from trainers.config.schema import PINS

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
GOLDEN = (
    '{"dataset":"digits","image_size":null,"train_samples":200,"test_samples":null,'
    '"teacher":"embedded","arm":"noise:0.1","views":8,"data_seed":0,"classes":null,'
    '"student":"width:1","input":"native","target":"teacher","objective":"cosine",'
    '"infonce_weight":1.0,"temperature":0.1,"infonce_positive":"teacher",'
    '"theia_cosine_weight":0.9,"theia_smooth_l1_weight":0.1,"rkd_distance_weight":25.0,'
    '"rkd_angle_weight":50.0,"sp_weight":1.0,"vicreg_variance_weight":25.0,'
    '"vicreg_covariance_weight":1.0,"vicreg_gamma":null,"vicreg_vectors":"raw",'
    '"koleo_weight":0.1,"seed":3,"epochs":5,"duration":null,"batch_size":64,"accumulate":1,'
    '"optimizer":"adam","lr":0.001,"weight_decay":0.0,"momentum":0.9,"clip_norm":0.0,'
    '"schedule":"constant","warmup":"0 steps","ema":0.0,"precision":"fp32",'
    '"channels_last":true,"compile":false,"cuda_graphs":false,"engine":"single","ranks":1,'
    '"threads":1,"elastic":"off","sync_batchnorm":true,"zero_stage":0,"offload":false,'
    '"curve_every":null,"curve_samples":1000,"probes":["spectrum","linear","neighbours",'
    '"zero_shot","robustness","frequency","infonce","intervals","retained","truncated"],'
    '"test_arms":["noise:0.05","noise:0.1","noise:0.2"],"test_views":3,'
    '"adapt_arms":["noise:0.1"]}'
)


def test_identity_is_golden():
    config = make_config(LEAST | {"train_samples": 200, "arm": "noise", "views": 8, "seed": 3})
    assert config.model_dump_json(exclude=set(PINS)) == GOLDEN
    assert config.identity == hashlib.sha256(GOLDEN.encode()).hexdigest()[:16]
    assert config.identity == "ff962bd1a2d25411"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arm": "noise", "views": 4}, {"arm": "noise:0.1", "views": 4}),
        ({"arm": "noise:0.10", "views": 4}, {"arm": "noise:0.1", "views": 4}),
        ({"student": "width:1.0"}, {"student": "width:1"}),
        ({"student": "width:010.50"}, {"student": "width:10.5"}),
        ({"student": "params:500K"}, {"student": "params:0.5M"}),
        ({"arm": "clean", "views": 8}, {"arm": "clean", "views": 1}),
        ({"views": 8}, {}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"infonce_weight": -0.0}, {"infonce_weight": 0.0}),
        ({"test_arms": ["noise", "noise:0.1"]}, {"test_arms": ["noise:0.1"]}),
        ({"probes": ["linear", "linear"]}, {"probes": ["linear"]}),
        ({"batch_size": 64}, {}),
    ],
)
def test_spellings_of_one_trial_have_one_identity(one, other):
    assert make_config(LEAST | one).identity == make_config(LEAST | other).identity


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data_seed": "per_seed"},
        {"lr": 2e-3},
        {"arm": "noise:0.2"},
        {"student": "width:1.0000001"},
        {"student": "params:2.0000001M"},
        {"objective": "cosine+infonce"},
        {"threads": 2},
        {"probes": ["linear"]},
    ],
)
def test_another_trial_has_another_name(change):
    assert make_config(LEAST | change).identity != make_config(LEAST).identity


def test_canonical_json_gives_the_same_trial():
    config = make_config(LEAST | {"arm": "crop_flip", "views": 3, "student": "params:2000K"})
    again = make_config(json.loads(config.model_dump_json()))
    assert again == config
    assert again.student == "params:2M"


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        make_config(LEAST).seed = 4


REFUSED = [
    ({"lrr": 1e-3}, "unknown key `lrr`; did you mean `lr`?"),
    ({"lr": "1e-3"}, "lr: Input should be a valid number; got '1e-3'"),
    ({"epochs": "5"}, "epochs: Input should be a valid integer; got '5'"),
    ({"epochs": 5.0}, "epochs: Input should be a valid integer; got 5.0"),
    ({"epochs": True}, "epochs: Input should be a valid integer; got True"),
    ({"lr": True}, "lr: Input should be a valid number; got True"),
    ({"lr": float("nan")}, "lr: Input should be a finite number; got nan"),
    ({"lr": float("inf")}, "lr: Input should be a finite number; got inf"),
    ({"lr": 0}, "lr: Input should be greater than 0; got 0"),
    ({"lr": 1e38}, "lr: Input should be less than or equal to 1000000"),
    ({"temperature": 0.0}, "temperature: Input should be greater than 0; got 0.0"),
    ({"temperature": -0.1}, "temperature: Input should be greater than 0; got -0.1"),
    ({"infonce_weight": -1.0}, "infonce_weight: Input should be greater than or equal to 0"),
    ({"batch_size": 1}, "batch_size: Input should be greater than or equal to 2; got 1"),
    ({"data_seed": "own"}, "expected a whole number of at least 0 and below 2^63, or `per_seed`"),
    ({"seed": -1}, "seed: Input should be greater than or equal to 0; got -1"),
    ({"seed": 2**63}, "seed: Input should be less than 9223372036854775808"),
    ({"engine": "ddp", "ranks": 3}, "64 is not divisible by 3 ranks; nearest: 63 or 66"),
    ({"engine": "ddp", "ranks": 100}, "64 is not divisible by 100 ranks; nearest: 100"),
    ({"ranks": 2}, "ranks: 2 with engine `single`; choose 1, or engine `ddp`"),
    ({"student": "widht:1"}, "unknown student `widht`; did you mean `width`?"),
    ({"arm": "nois:0.1"}, "unknown arm `nois`; did you mean `noise`?"),
    ({"test_arms": ["crop_flp"]}, "unknown arm `crop_flp`; did you mean `crop_flip`?"),
    ({"objective": "cosin"}, "unknown objective `cosin`; did you mean `cosine`?"),
    ({"engine": "dpp"}, "unknown engine `dpp`; did you mean `ddp`?"),
    ({"probes": ["spectrm"]}, "unknown probe `spectrm`; did you mean `spectrum`?"),
    ({"input": "natve"}, "input: Input should be 'native' or 'teacher'; got 'natve'"),
    ({"arm": 5}, "arm: Input should be a valid string; got 5"),
    ({"arm": ["noise"]}, "arm: Input should be a valid string"),
    ({"arm": "clean:3"}, "`clean` takes no option"),
    ({"views": "many"}, "views: Input should be a valid integer; got 'many'"),
    ({"views": 0}, "views: Input should be greater than or equal to 1; got 0"),
    ({"arm": "nois\ne"}, "`nois e`: control characters are refused"),
    ({1: 2}, "1: Keys should be strings"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_refusals_are_one_line_that_says_what_is_right(change, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        make_config(LEAST | change, "here.yaml")
    text = str(caught.value)
    assert text.startswith("here.yaml: ")
    assert said in text
    assert "\n" not in text


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match=r"^teacher: missing$"):
        make_config({"dataset": "digits", "student": "width:1"})


def test_a_config_is_read_from_a_file(tmp_path):
    file = tmp_path / "trial.yaml"
    file.write_text("dataset: digits\nteacher: embedded\nstudent: width:1\nlr: 1.0e-3\n")
    assert load_config(str(file)) == make_config(LEAST)
    file.write_text("dataset: digits\nteacher: embedded\nstudent: width:1\nlr: 1e-3\n")
    assert load_config(str(file)) == make_config(LEAST)
    file.write_text("dataset: digits\nteacher: embedded\nstudent: width:1\nlr: 1\nlr: 2\n")
    with pytest.raises(ValueError, match=r"trial\.yaml: key `lr` is on line 4 and again on line 5"):
        load_config(str(file))
    file.write_bytes(b"dataset: \xff")
    with pytest.raises(ValueError, match=r"trial\.yaml: not UTF-8 text \(byte 9\)"):
        load_config(str(file))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_config(str(tmp_path / "nowhere.yaml"))


def test_steps_drop_the_short_batch():
    assert make_config(LEAST | {"epochs": 3, "batch_size": 64}).total_steps(200) == 9
