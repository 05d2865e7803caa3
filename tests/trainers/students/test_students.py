"""Students: the paper's counts to the last parameter, budgets, refusals, seeds, files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers.students import STUDENTS, build_student, describe
from trainers.students.base import Student
from trainers.students.cost import ParameterCount, count_parameters
from trainers.students.files import load_student, save_student

DIMS = (64, 256, 384, 512, 768, 1024)


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("width", "trunk", "total"),
    [(1, 23_808, 811_264), (2, 93_696, 1_405_440), (4, 371_712, 2_732_032)],
)
def test_parameter_counts_are_the_papers(width, trunk, total):
    spec, expected = f"width:{width}", ParameterCount(trunk, total - trunk, total)
    assert count_parameters(build_student(spec, 512, 32, seed=0)) == expected
    assert describe(spec, 512, 32).parameters == expected


@pytest.mark.parametrize(
    ("width", "at_32", "at_224"), [(1, 3.6, 138), (2, 11.6, 507), (4, 41.9, 1939)]
)
def test_multiply_accumulates_are_the_papers(width, at_32, at_224):
    assert round(describe(f"width:{width}", 512, 32).macs / 1e6, 1) == at_32
    assert round(describe(f"width:{width}", 512, 224).macs / 1e6) == at_224


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("budget", ["0.5M", "2M", "8M"])
def test_budgets_are_met_within_two_percent(budget, dim):
    if (budget, dim) == ("0.5M", 1024):  # the last layer's 512 x 1024 weights alone are more
        with pytest.raises(ValueError, match="params:621K"):
            describe("params:0.5M", 1024, 32)
        return
    summary = describe(f"params:{budget}", dim, 32)
    target = float(budget[:-1]) * 1e6
    assert abs(summary.parameters.total - target) <= 0.02 * target
    assert min(summary.channels) >= 4
    c1, c2, c3 = summary.channels
    assert abs(c2 - 2 * c1) <= 5  # still the paper's proportions, give or take the rounding
    assert abs(c3 - 2 * c2) <= 5


def test_budget_is_the_built_students_total():
    student = build_student("params:0.5M", 512, 32, seed=0)
    assert count_parameters(student) == describe("params:500K", 512, 32).parameters
    assert student.channels == (8, 15, 28)
    assert count_parameters(student).total == 497_773


@pytest.mark.parametrize("dim", DIMS)
def test_smallest_named_budget_is_reachable_and_the_next_lower_is_not(dim):
    with pytest.raises(ValueError, match=f"embedding_dim {dim}") as caught:
        describe("params:10K", dim, 32)
    named = re.search(r"smallest reachable is params:(\d+)K$", str(caught.value))
    assert named
    least = int(named[1])
    assert abs(describe(f"params:{least}K", dim, 32).parameters.total / 1e3 - least) <= 0.02 * least
    with pytest.raises(ValueError, match=f"params:{least}K"):
        describe(f"params:{least - 1}K", dim, 32)


def test_largest_named_budget_is_reachable():
    with pytest.raises(ValueError, match="largest") as caught:
        describe("params:500M", 512, 32)
    describe(str(caught.value).rsplit(maxsplit=1)[-1], 512, 32)


def test_narrowest_width_is_named_and_works():
    with pytest.raises(ValueError, match=r"width:0.2187"):
        build_student("width:0.2", 512, 32)
    assert describe("width:0.21875", 512, 32).channels == (4, 7, 14)
    assert describe("width:0.5", 512, 32).channels == (8, 16, 32)


WIDTHS = ("", "abc", "-1", "nan", "inf", "0", "0.0", "1 ", "1e1", "9" * 400)
BUDGETS = ("", "0", "0M", "5X", "-2M", "2m", "2 M", "nanM", "9" * 400 + "M")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        *((f"width:{w}", "the width must be a positive decimal, such as width:1") for w in WIDTHS),
        *((f"params:{b}", "a positive decimal and K or M (thousands or") for b in BUDGETS),
        ("widht:1", "unknown student `widht`; did you mean `width`"),
        ("width", "student `width:`: the width must be"),
        ("width:1000", "largest possible is width:64"),
        ("timm:resnet81", "timm has no model `resnet81`; did you mean `resnet18`"),
        ("timm:hf-hub:someone/something", "timm has no model"),
        ("timm:", "timm has no model"),
    ],
)
def test_students_that_cannot_be_built_are_refused(spec, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        build_student(spec, 512, 32)
    assert "\n" not in str(caught.value)
    assert f"`{spec.split(':')[0]}" in str(caught.value)


@pytest.mark.parametrize(
    ("dim", "size", "seed", "said"),
    [
        (0, 32, 0, "embedding_dim: got 0; expected a whole number of 1 or more"),
        (512.0, 32, 0, "embedding_dim: got 512.0"),
        (True, 32, 0, "embedding_dim: got True"),
        (512, 3, 0, "image_size: got 3; expected a whole number of 4 or more"),
        (512, 32, -1, "seed: got -1; expected a whole number of 0 or more"),
        (512, 32, 2**64, "seed: got"),
    ],
)
def test_refused_numbers(dim, size, seed, said):
    with pytest.raises(ValueError, match=said):
        build_student("width:1", dim, size, seed)


def test_timm_says_which_size_it_takes():
    with pytest.raises(ValueError, match="240"):
        build_student("timm:crossvit_tiny_240", 64, 32)


@pytest.mark.parametrize("spec", ["width:1", "timm:resnet18"])
def test_weights_are_a_pure_function_of_the_seed(spec):
    torch.manual_seed(5)
    outside = torch.get_rng_state()
    first = build_student(spec, 64, 32, seed=3).state_dict()
    torch.rand(7)
    second = build_student(spec, 64, 32, seed=3).state_dict()
    other = build_student(spec, 64, 32, seed=4).state_dict()
    torch.set_rng_state(outside)
    build_student(spec, 64, 32, seed=3)
    describe(spec, 64, 32)
    assert torch.equal(torch.get_rng_state(), outside)
    assert all(torch.equal(t, second[name]) for name, t in first.items())
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])
    torch.manual_seed(3)  # without a seed the global generator serves
    unseeded = build_student(spec, 64, 32).state_dict()
    assert all(torch.equal(t, unseeded[name]) for name, t in first.items())


@pytest.mark.parametrize(
    ("spec", "size", "features"),
    [
        ("width:1", 32, 512),
        ("width:1", 224, 512),
        ("width:1", 30, 512),
        ("params:0.5M", 32, 512),
        ("timm:resnet18", 32, 512),
        ("timm:mobilenetv3_small_050", 32, 1024),  # wider than its num_features
        ("timm:vit_tiny_patch16_224", 32, 192),  # made for 32, not for 224
    ],
)
def test_shapes_and_the_representation_before_the_last_layer(spec, size, features):
    student = build_student(spec, 96, size, seed=0).eval()
    images_BCHW = images(size)
    with torch.no_grad():
        embedding_BD = student(images_BCHW)
        features_BF = student.features(images_BCHW)
        through_head = student.head(student.trunk(images_BCHW))
    assert embedding_BD.shape == (2, 96)
    assert embedding_BD.dtype == torch.float32
    assert features_BF.shape == (2, features)
    assert torch.equal(student.head[-1](features_BF), embedding_BD)
    assert torch.equal(through_head, embedding_BD)


@pytest.mark.parametrize("spec", ["width:1", "params:0.5M", "timm:resnet18"])
def test_gradient_reaches_every_parameter(spec):
    student = build_student(spec, 64, 32, seed=0)
    student(images(32, 8)).square().sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert any(bool(p.grad.abs().sum() > 0) for p in student.trunk.parameters())


def test_timm_counts_trunk_and_head():
    summary = describe("timm:resnet18", 512, 224)
    assert summary.parameters == ParameterCount(11_176_512, 512 * 512 + 512, 11_439_168)
    assert summary.channels == ()
    assert round(summary.macs / 1e9, 2) == 1.81


@pytest.mark.thorough
def test_describe_imports_neither_timm_nor_the_compiler():
    code = (
        "import sys; from trainers.students import describe, build_student;"
        "describe('params:2M', 512, 224); build_student('width:1', 64, 32, 0);"
        "sys.exit(bool({'timm', 'sympy', 'torch._dynamo'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_new_student_is_one_entry(monkeypatch):
    def flat(argument: str, embedding_dim: int, image_size: int) -> Student:
        head = nn.Sequential(nn.Linear(3 * image_size**2, embedding_dim))
        return Student(nn.Flatten(), head)

    monkeypatch.setitem(STUDENTS, "flat", flat)
    assert describe("flat", 10, 8).parameters == ParameterCount(0, 1930, 1930)
    assert build_student("flat", 10, 8, seed=0)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


# ---- on disk ----


@pytest.fixture
def saved(tmp_path):
    student = build_student("width:0.5", 64, 32, seed=1)
    student(images(32, 8))  # moves the running statistics
    save_student(tmp_path / "student", student, "width:0.5", 64, 32)
    return tmp_path / "student", student


def test_round_trip_is_bit_equal(saved):
    folder, student = saved
    before = torch.get_rng_state()
    again = load_student(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training
    assert again.state_dict().keys() == student.state_dict().keys()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(again(images(32)), student.eval()(images(32)))
    assert sorted(f.name for f in folder.iterdir()) == ["student.json", "student.safetensors"]


def test_saving_another_spec_than_the_models_is_refused(saved, tmp_path):
    _, student = saved
    with pytest.raises(ValueError, match=r"trunk.0.weight"):
        save_student(tmp_path / "other", student, "width:1", 64, 32)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="float64"):
        save_student(tmp_path / "other", student.double(), "width:0.5", 64, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": 1}, "missing or unknown: extra"),
        ({"spec": None}, "spec: got None; expected str"),
        ({"embedding_dim": 64.0}, "embedding_dim: got 64.0; expected int"),
        ({"image_size": True}, "image_size: got True; expected int"),
        ({"format": "student/9"}, "expected 'student/1'"),
        ({"embedding_dim": 65}, r"student.safetensors: tensor `head.2.weight`"),
        ({"sha256": "0" * 64}, "its sha256 is not the one in student.json"),
        ({"spec": "widht:1"}, "did you mean `width`"),
    ],
)
def test_altered_records_are_refused(saved, change, said):
    folder, _ = saved
    record = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=said):
        load_student(folder)


def test_damaged_and_missing_files_are_refused(saved, tmp_path):
    folder, _ = saved
    weights = bytearray((folder / "student.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "student.safetensors").write_bytes(bytes(weights))
    with pytest.raises(ValueError, match="sha256"):
        load_student(folder)
    (folder / "student.safetensors").unlink()
    with pytest.raises(ValueError, match=r"student.safetensors"):
        load_student(folder)
    (folder / "student.json").write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        load_student(folder)
    with pytest.raises(ValueError, match=r"student.json"):
        load_student(tmp_path / "nowhere")
