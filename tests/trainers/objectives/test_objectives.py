"""Objectives: closed forms, gradients against finite differences, and the contract of all."""

import math

import pytest
import torch
from torch.nn.functional import normalize, smooth_l1_loss

from trainers.canonical import make_config
from trainers.objectives import (
    OBJECTIVES,
    InfonceFields,
    KoleoFields,
    RkdFields,
    SpFields,
    TheiaFields,
    VicregFields,
    canonical_objective,
    cosine,
    fields_read,
    infonce,
    koleo,
    make_objective,
    mse,
    rkd,
    rkd_terms,
    sp,
    supervised,
    theia,
    vicreg,
    vicreg_terms,
)
from trainers.objectives.base import Loss

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
OTHER_VIEW = InfonceFields(infonce_positive="student")
FULL_KOLEO = KoleoFields(koleo_weight=1.0)
ALONE = {"vicreg", "koleo"}  # they look at the student alone
SUMS = ("cosine+infonce", "cosine+koleo", "cosine+vicreg", "mse+rkd+sp")


def loss_of(objective: str, **fields: object) -> Loss:
    """The loss of a trial with these fields, as training makes it."""
    config = make_config(LEAST | {"objective": objective} | fields)
    return make_objective(config.objective, config.objective_fields)


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_cosine_of_equal_opposite_and_orthogonal():
    x_BD = vectors(5, 7)
    assert cosine(x_BD, x_BD).item() == pytest.approx(0, abs=1e-12)
    assert cosine(x_BD, -x_BD).item() == pytest.approx(2, abs=1e-12)
    eye_BD = torch.eye(4, dtype=torch.float64)
    assert cosine(eye_BD, eye_BD.roll(1, 0)).item() == pytest.approx(1, abs=1e-12)
    assert cosine(3 * x_BD, 0.1 * x_BD).item() == pytest.approx(0, abs=1e-12)


def test_mse_is_of_raw_vectors_and_on_unit_ones_the_cosine():
    x_BD, y_BD = vectors(5, 7), vectors(5, 7, seed=1)
    assert mse(x_BD, y_BD).item() == pytest.approx(((x_BD - y_BD) ** 2).mean().item())
    assert mse(2 * y_BD, y_BD).item() == pytest.approx((y_BD**2).mean().item())
    x_BD, y_BD = normalize(x_BD, dim=1), normalize(y_BD, dim=1)
    expected = 2 * cosine(x_BD, y_BD).item() / 7
    assert mse(x_BD, y_BD).item() == pytest.approx(expected)


def test_theia_is_nine_parts_cosine_and_one_part_smooth_l1():
    x_BD, y_BD = 3 * vectors(5, 7), vectors(5, 7, seed=1)
    apart = (x_BD - y_BD).abs()
    length = torch.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
    expected = 0.9 * cosine(x_BD, y_BD) + 0.1 * length
    assert theia(x_BD, y_BD, TheiaFields()).item() == pytest.approx(expected.item())
    other = TheiaFields(theia_cosine_weight=0.0, theia_smooth_l1_weight=2.0)
    assert theia(x_BD, y_BD, other).item() == pytest.approx(2 * length.item())


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_infonce_of_one_hot_vectors(temperature):
    eye_BD = torch.eye(6, dtype=torch.float64)
    expected = math.log(1 + 5 * math.exp(-1 / temperature))
    found = infonce(2 * eye_BD, eye_BD, InfonceFields(temperature=temperature)).item()
    assert found == pytest.approx(expected)


def test_infonce_is_ln_b_when_nothing_is_told_apart():
    same_BD = torch.ones(6, 3, dtype=torch.float64)
    assert infonce(same_BD, same_BD, InfonceFields()).item() == pytest.approx(math.log(6))


def test_infonce_goes_from_student_to_teacher():
    student_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    teacher_BD = torch.eye(2, dtype=torch.float64)
    own = math.log(1 + math.exp(-10)), math.log(1 + math.exp(10))
    assert infonce(student_BD, teacher_BD, InfonceFields()).item() == pytest.approx(sum(own) / 2)
    assert infonce(teacher_BD, student_BD, InfonceFields()).item() == pytest.approx(math.log(2))


def test_infonce_with_another_view_as_positive_asks_the_teacher_nothing():
    one, other, teacher = vectors(5, 7), vectors(5, 7, seed=1), vectors(5, 7, seed=2)
    both = torch.cat([one, other], dim=1)
    expected = infonce(one, other, InfonceFields())
    assert infonce(both, teacher, OTHER_VIEW).item() == pytest.approx(expected.item(), abs=1e-14)
    total = make_objective("cosine+infonce", OTHER_VIEW.model_dump())(both, teacher)
    assert total.item() == pytest.approx((cosine(one, teacher) + expected).item())
    alone = make_objective("infonce", OTHER_VIEW.model_dump())(both, teacher)
    assert alone.item() == pytest.approx(expected.item())


def test_rkd_of_a_line_against_a_corner():
    """Distances over their mean, and the cosines of all angles, by hand."""
    line_BD = torch.tensor([[0.0, 0], [1, 0], [3, 0]], dtype=torch.float64)
    corner_BD = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    distance, angle = rkd_terms(line_BD, corner_BD)
    root = math.sqrt(2)
    mean = (2 + root) / 3
    pairs = [(1 / 2, 1 / mean), (3 / 2, 1 / mean), (2 / 2, root / mean)]
    expected = 2 * sum(smooth(a - b) for a, b in pairs) / 9
    assert distance.item() == pytest.approx(expected)
    # At the points in turn: 0 and 180 and 0 degrees on the line, 90, 45 and 45 at the corner.
    angles = [(1, 0), (-1, root / 2), (1, root / 2)]
    expected = 2 * sum(smooth(a - b) for a, b in angles) / 27
    assert angle.item() == pytest.approx(expected)
    total = rkd(line_BD, corner_BD, RkdFields())
    assert total.item() == pytest.approx((25 * distance + 50 * angle).item())


def smooth(x: float) -> float:
    return smooth_l1_loss(torch.tensor(x), torch.tensor(0.0)).item()


def test_rkd_is_blind_to_scale_and_rotation_and_shift():
    x_BD, turn_DD = vectors(6, 4), torch.linalg.qr(vectors(4, 4, seed=3)).Q
    for other in (5 * x_BD, x_BD @ turn_DD, x_BD + 3):
        assert rkd(other, x_BD, RkdFields()).item() == pytest.approx(0, abs=1e-12)


def test_sp_equals_its_formula():
    student_BD = torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    teacher_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    # Row-normalised: the identity, and 1 / sqrt(2) everywhere.
    half = 1 / math.sqrt(2)
    assert sp(student_BD, teacher_BD, SpFields()).item() == pytest.approx(
        (2 * (1 - half) ** 2 + 2 * half**2) / 4
    )
    x_BD = vectors(6, 4)
    assert sp(2 * x_BD, x_BD, SpFields()).item() == pytest.approx(0, abs=1e-12)


def test_vicreg_terms_by_hand():
    x_BD = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)  # var 2, 8, cov 4
    spread, covariance = vicreg_terms(x_BD, gamma=2.0)
    assert spread.item() == pytest.approx((2 - math.sqrt(2.0001)) / 2)
    assert covariance.item() == pytest.approx(2 * 4**2 / 2)
    same_BD = torch.ones(4, 3, dtype=torch.float64)
    assert vicreg(same_BD, same_BD, VicregFields()).item() == pytest.approx(25 * (1 - 0.01))
    x_BD = vectors(500, 4)
    assert vicreg_terms(x_BD, 1.0)[1].item() == pytest.approx(
        (torch.cov(x_BD.T) - torch.diag(x_BD.var(dim=0))).square().sum().item() / 4
    )


def test_vicreg_on_unit_vectors_asks_for_what_they_can_reach():
    x_BD, unit = vectors(64, 16), VicregFields(vicreg_vectors="unit")
    z_BD = normalize(x_BD, dim=1)
    spread, covariance = vicreg_terms(z_BD, 1 / 4)
    assert vicreg(9 * x_BD, x_BD, unit).item() == pytest.approx((25 * spread + covariance).item())
    assert spread < 0.05  # spherical: 1 / sqrt(D) each
    own = VicregFields(vicreg_vectors="unit", vicreg_gamma=1.0, vicreg_covariance_weight=0.0)
    assert vicreg(x_BD, x_BD, own).item() == pytest.approx(25 * vicreg_terms(z_BD, 1.0)[0].item())


def test_koleo_is_the_log_of_the_nearest_distance():
    eye_BD = 7 * torch.eye(4, dtype=torch.float64)
    assert koleo(eye_BD, eye_BD, FULL_KOLEO).item() == pytest.approx(-math.log(2) / 2, abs=1e-6)
    pair_BD = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert koleo(pair_BD, pair_BD, FULL_KOLEO).item() == pytest.approx(-math.log(2), abs=1e-6)
    x_BD = vectors(9, 3)
    apart = torch.cdist(normalize(x_BD, dim=1), normalize(x_BD, dim=1)).fill_diagonal_(9)
    expected = -apart.min(dim=1).values.log().mean()
    assert koleo(x_BD, x_BD, FULL_KOLEO).item() == pytest.approx(expected.item(), abs=1e-6)


def test_supervised_takes_the_last_columns_against_the_labels():
    embedding_BD, logits_BC = vectors(5, 7), vectors(5, 3, seed=1)
    labels_B = torch.tensor([0, 2, 1, 1, 0])
    onehot_BC = torch.eye(3, dtype=torch.float64)[labels_B]
    expected = torch.nn.functional.cross_entropy(logits_BC, labels_B)
    found = supervised(torch.cat([embedding_BD, logits_BC], dim=1), onehot_BC)
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["infonce", "sp", "koleo"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_a_weight_counts_in_a_sum_and_alone(name, weight):
    x_BD, y_BD, field = vectors(5, 7), vectors(5, 7, seed=1), f"{name}_weight"
    term = weight * make_objective(name, {field: 1.0})(x_BD, y_BD)
    alone = make_objective(name, {field: weight})(x_BD, y_BD)
    total = loss_of(f"cosine+{name}", **{field: weight})(x_BD, y_BD)
    assert alone.item() == pytest.approx(term.item(), abs=1e-14)
    assert total.item() == pytest.approx((cosine(x_BD, y_BD) + term).item(), abs=1e-14)


def test_every_field_changes_its_term_and_no_other():
    x_BD, y_BD = vectors(6, 4), vectors(6, 4, seed=1)
    changed = {"vicreg_vectors": "unit", "infonce_positive": "student"}
    defaults = make_config(LEAST).objective_fields
    for term, entry in OBJECTIVES.items():
        for field in entry.fields.model_fields if entry.fields else ():
            change = {field: changed.get(field, 0.7)} | {"arm": "noise", "views": 2}
            for name in OBJECTIVES:
                config = make_config(LEAST | {"objective": name} | change)
                assert (config.objective_fields == defaults) == (name != term), (name, field)
                if name != "supervised":
                    before = make_objective(name, {})(x_BD, y_BD)
                    after = make_objective(name, config.objective_fields)(x_BD, y_BD)
                    assert torch.equal(before, after) == (name != term), (name, field)


@pytest.mark.parametrize("name", [*OBJECTIVES, *SUMS])
def test_every_objective_is_finite_with_a_correct_gradient(name):
    objective = make_objective(name, {})
    x_BD, y_BD = vectors(5, 7).requires_grad_(), vectors(5, 7, seed=1)
    y_BD = y_BD.softmax(dim=1) if name == "supervised" else y_BD
    loss = objective(x_BD, y_BD)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    if not ALONE & set(name.split("+")):
        best_BD = y_BD.log() if name == "supervised" else y_BD
        assert loss > objective(best_BD, y_BD)  # lower is better
    assert torch.autograd.gradcheck(lambda x: objective(x, y_BD), (x_BD,))
    (gradient,) = torch.autograd.grad(loss, x_BD)
    assert gradient.abs().sum() > 0
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    assert objective(x_BD[order], y_BD[order]).item() == pytest.approx(loss.item())
    assert objective(x_BD.float(), y_BD.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*OBJECTIVES, *SUMS])
@pytest.mark.parametrize("collapsed", ["two", "all", "scaled"])
def test_gradients_are_finite_at_coincident_points(name, dtype, collapsed):
    """Two, or all, of the student's points are one (or differ in length alone)."""
    x_BD = vectors(5, 7).to(dtype)
    if collapsed == "all":
        x_BD[:] = x_BD[0]
    else:
        x_BD[1] = x_BD[0] * (2 if collapsed == "scaled" else 1)
    x_BD.requires_grad_()
    y_BD = vectors(5, 7, seed=1).to(dtype)
    loss = make_objective(name, {})(x_BD, y_BD)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x_BD.grad).all()
    assert x_BD.grad.abs().max() < 1e9  # no 1e12 of a norm's epsilon


# ---- names ----


def test_sums_have_one_spelling_and_fields_that_are_read():
    assert canonical_objective("koleo+cosine") == "cosine+koleo"
    assert canonical_objective("infonce+vicreg+cosine") == "cosine+infonce+vicreg"
    assert fields_read("cosine+koleo") == {"koleo_weight"}
    assert fields_read("cosine+infonce") == set(InfonceFields.model_fields)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cosine+kole", "unknown objective `kole`; did you mean `koleo`?"),
        ("cosine+cosine", "`cosine+cosine` has a term twice"),
        ("cosine+supervised", "`supervised` learns labels, not the teacher"),
        ("cosine+", "unknown objective ``"),
    ],
)
def test_unknown_sums_of_objectives_are_refused(name, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        canonical_objective(name)
    assert said in str(caught.value)
