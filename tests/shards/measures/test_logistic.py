"""Softmax regression: closed forms, scikit-learn, invariances, precisions, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from shards.measures import newton
from shards.measures.logistic import SoftmaxModel, SoftmaxProblem, fit_softmax


def gradient(model: SoftmaxModel, x_ND, labels_N, C: float) -> float:
    """Largest absolute entry of the gradient, straight from the objective, in float64."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    kept = np.unique(labels_N)
    weight, bias = model.weight_CD.numpy()[kept], model.bias_C.numpy()[kept]
    logits = x_ND @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rest = p - (np.asarray(labels_N)[:, None] == kept)
    by_weight = rest.T @ x_ND / len(x_ND) + weight / (C * len(x_ND))
    return max(np.abs(by_weight).max(), np.abs(rest.mean(axis=0)).max())


def clouds(n: int, d: int, classes: int, seed: int = 0, apart: float = 1.0):
    """Gaussian clouds that overlap, uneven class sizes, every class present."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n) ** 2 // classes])[:n]
    centres = apart * rng.normal(size=(classes, d))
    return centres[labels] + rng.normal(size=(n, d)), labels


def cone(n: int, d: int, classes: int):
    """Unit vectors around one direction, as embeddings are."""
    x, labels = clouds(n, d, classes, apart=0.5)
    x = x / np.arange(1, d + 1) + 3 * np.eye(d)[0] + 2 / np.sqrt(d)
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def ill_conditioned(n: int, d: int, classes: int):
    x, labels = clouds(n, d, classes)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    return (x * np.logspace(2, -4, d)) @ turn + 50, labels


def duplicated(n: int, d: int, classes: int):
    return tuple(np.repeat(array, 4, axis=0) for array in clouds(n // 4, d, classes))


def fit(x_ND, labels_N, C=1.0, classes=None, **rest) -> SoftmaxModel:
    classes = classes or int(np.max(labels_N)) + 1
    return fit_softmax(torch.as_tensor(x_ND), torch.as_tensor(labels_N), classes, C, **rest)


# ---- closed forms ----


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_two_points_in_one_dimension(C, shift):
    """At +-1 (m each): logits +-w x, so 2 m C sigmoid(-2 w) = w, halfway at x = 0."""
    m = 3
    x = np.repeat([[-1.0], [1.0]], m, axis=0) + shift
    model = fit(x, np.repeat([0, 1], m), C)
    w = brentq(lambda w: 2 * m * C / (1 + math.exp(2 * w)) - w, 0, 300, xtol=1e-13)
    assert model.weight_CD[:, 0].tolist() == pytest.approx([-w, w], abs=1e-6 * max(1, C))
    assert model.bias_C.tolist() == pytest.approx([w * shift, -w * shift], abs=1e-4)
    assert model.converged


def test_corners_of_a_simplex_are_told_apart_alike():
    x, labels = np.repeat(np.eye(5), 3, axis=0), np.repeat(np.arange(5), 3)
    model = fit(x, labels, 2.0, tol=1e-12)
    weight = model.weight_CD.numpy()
    on = weight[0, 0]
    assert weight == pytest.approx(on * (1.25 * np.eye(5) - 0.25), abs=1e-9)
    p = 1 / (1 + 4 * math.exp(-1.25 * on))
    assert on == pytest.approx(2.0 * 3 * (1 - p), abs=1e-9)  # stationary: W_00 = C sum (1 - p)
    assert model.bias_C.numpy() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 1 / 3, -1e4])
def test_constant_features_leave_the_frequencies(value):
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    model = fit(np.full((7, 4), value), labels, C=10.0)
    assert model.weight_CD.numpy() == pytest.approx(0, abs=1e-9)
    p = torch.softmax(model.logits(np.full((1, 4), value)), dim=1)
    assert p[0].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert model.gradient_norm < 1e-7


# ---- scikit-learn ----


@pytest.mark.parametrize("C", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("make", [clouds, cone, ill_conditioned, duplicated])
@pytest.mark.parametrize("classes", [3, 10])
def test_scikit_learn_finds_the_same(make, C, classes):
    x, labels = make(400, 12, classes)
    theirs = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-11, max_iter=500)
    theirs.fit(x, labels)
    ours = fit(x, labels, C, tol=1e-10)
    assert ours.converged
    assert ours.gradient_norm <= 1e-10
    assert gradient(ours, x, labels, C) < 2e-10
    assert ours.weight_CD.numpy() == pytest.approx(theirs.coef_, abs=1e-4 * theirs.coef_.max())
    p = torch.softmax(ours.logits(x), dim=1).numpy()
    assert p == pytest.approx(theirs.predict_proba(x), abs=1e-5)
    assert (ours.predict(x).numpy() == theirs.predict(x)).all()


def test_two_classes_are_scikit_learns_with_twice_the_c():
    x, labels = clouds(200, 5, 2)
    theirs = LogisticRegression(C=6.0, tol=1e-10, max_iter=1000).fit(x, labels)
    ours = fit(x, labels, C=3.0)
    apart_D = ours.weight_CD[1] - ours.weight_CD[0]
    assert apart_D.numpy() == pytest.approx(theirs.coef_[0], abs=1e-4)


def test_a_hundred_classes_some_without_a_sample():
    x, labels = clouds(1500, 10, 100)
    labels[np.isin(labels, [7, 99])] = 3
    ours = fit(x, labels, C=0.1, classes=100)
    theirs = LogisticRegression(C=0.1, tol=1e-6, max_iter=1000).fit(x, labels)
    assert gradient(ours, x, labels, 0.1) <= 1e-7
    assert (ours.predict(x).numpy() == theirs.predict(x)).mean() >= 0.999
    assert ours.bias_C[[7, 99]].tolist() == [-math.inf] * 2
    assert not ours.weight_CD[[7, 99]].any()
    assert np.isfinite(ours.bias_C.numpy()).sum() == len(np.unique(labels))


# ---- precisions and chunks ----


@pytest.fixture
def in_chunks(monkeypatch):
    """Small data take the way of large ones: float32 first, several chunks and slabs."""
    monkeypatch.setattr(newton, "SMALL", 0)
    monkeypatch.setitem(newton.CHUNK, "cpu", 37 * 12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [clouds, cone])
@pytest.mark.usefixtures("in_chunks")
def test_any_precision_ends_at_the_optimum_of_what_it_was_given(make, dtype, monkeypatch):
    x, labels = make(900, 12, 6)
    given = torch.as_tensor(x).to(dtype)
    model = fit(given, labels, C=2.0)
    wide = given.double().numpy()
    assert model.converged
    assert gradient(model, wide, labels, 2.0) == pytest.approx(model.gradient_norm, abs=1e-13)
    monkeypatch.setattr(newton, "SMALL", 1 << 20)
    whole = fit(wide, labels, C=2.0)
    assert model.weight_CD.numpy() == pytest.approx(whole.weight_CD.numpy(), abs=2e-3)
    assert (model.predict(given) == whole.predict(wide)).float().mean() >= 0.999


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("C", [1.0, 1e5])
def test_float32_does_not_limit_what_is_reached(C):
    x, labels = ill_conditioned(600, 12, 4)
    model = fit(x, labels, C, tol=1e-9)
    assert model.converged
    assert gradient(model, x, labels, C) < 2e-9


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize(("shift", "copied"), [(0.0, False), (3.0, False), (1e3, True)])
def test_float32_rows_are_copied_only_where_they_lie_far(shift, copied):
    x, labels = clouds(600, 12, 4)
    x = torch.as_tensor(x + shift).float()
    problem = SoftmaxProblem(x, torch.as_tensor(labels), 4)
    assert (problem.rows.narrow_ND is not None) == copied
    model = problem.solve(3.0)
    assert model.converged
    assert gradient(model, x.numpy(), labels, 3.0) == pytest.approx(model.gradient_norm, abs=1e-11)
    whole = fit(x.double() - shift, labels, C=3.0)
    assert model.weight_CD.numpy() == pytest.approx(whole.weight_CD.numpy(), abs=1e-3)


@pytest.mark.usefixtures("in_chunks")
def test_threads_change_no_bit():
    x, labels = cone(1500, 12, 5)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        model = fit(x, labels)
        assert torch.get_num_threads() == threads
        found.append((model.weight_CD.numpy().tobytes(), model.bias_C.numpy().tobytes()))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


# ---- what must not matter ----


def test_rotations_turn_the_weights_and_shifts_move_the_bias():
    x, labels = clouds(300, 8, 4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 8)))[0]
    plain = fit(x, labels, tol=1e-11)
    turned = fit(x @ turn, labels, tol=1e-11)
    assert turned.weight_CD.numpy() == pytest.approx(plain.weight_CD.numpy() @ turn, abs=1e-7)
    moved = fit(x + 1e3, labels, tol=1e-9)
    assert moved.weight_CD.numpy() == pytest.approx(plain.weight_CD.numpy(), abs=1e-5)


def test_samples_twice_at_half_the_c_are_the_same_problem():
    x, labels = clouds(300, 8, 4)
    once, twice = fit(x, labels, 1.0), fit(np.tile(x, (2, 1)), np.tile(labels, 2), 0.5)
    assert twice.weight_CD.numpy() == pytest.approx(once.weight_CD.numpy(), abs=1e-5)


def test_where_it_starts_does_not_matter():
    x, labels = clouds(300, 8, 4)
    problem = SoftmaxProblem(torch.as_tensor(x), torch.as_tensor(labels), 5)
    direct = problem.solve(1.0, 1e-10)
    far = problem.solve(1e4)
    from_far = problem.solve(1.0, 1e-10, start=far)
    assert from_far.weight_CD.numpy() == pytest.approx(direct.weight_CD.numpy(), abs=1e-7)
    assert problem.solve(1.0, 1e-9, start=direct).iterations == 0


@pytest.mark.parametrize(("n", "d"), [(20, 200), (300, 1), (4, 3)])
def test_fit_for_wide_narrow_and_tiny_data(n, d):
    x, labels = clouds(n, d, 3)
    assert gradient(fit(x, labels, C=5.0), x, labels, 5.0) <= 1.1e-7


@pytest.mark.parametrize("C", [1e8, 1e-8])
def test_separable_samples_and_extreme_c(C):
    x, labels = clouds(60, 30, 3, apart=20.0)
    model = fit(x, labels, C)
    assert model.converged
    assert (model.predict(x).numpy() == labels).all() == (C > 1)
    assert torch.isfinite(model.weight_CD).all()


def test_what_is_not_reached_is_said():
    x, labels = clouds(300, 8, 4)
    problem = SoftmaxProblem(torch.as_tensor(x), torch.as_tensor(labels), 4)
    short = problem.solve(1.0, steps=1)
    assert (short.converged, short.iterations) == (False, 1)
    assert short.gradient_norm == pytest.approx(gradient(short, x, labels, 1.0), rel=1e-9)
    best = problem.solve(1.0, tol=1e-300)
    assert not best.converged
    assert best.gradient_norm < 1e-13
    assert best.iterations < 50


# ---- refusals ----

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("x", "y", "classes", "said"),
    [
        (X[0], Y, 2, r"features must be floats of shape \(N, D\); got torch.float32 \(3,\)"),
        (X[:0], Y[:0], 2, r"got torch.float32 \(0, 3\)"),
        (X.long(), Y, 2, r"got torch.int64 \(6, 3\)"),
        (X, Y[:5], 2, r"labels must be integers of shape \(6,\); got torch.int64 \(5,\)"),
        (X, Y.float(), 2, r"got torch.float32 \(6,\)"),
        (X, Y, 1, r"labels must lie in \[0, 1\); got 0 to 1"),
        (X, Y - 1, 2, r"labels must lie in \[0, 2\); got -1 to 0"),
        (X, torch.ones(6).long(), 2, "at least 2 classes; got only class 1"),
        (X.masked_fill(torch.arange(6)[:, None] == 4, math.nan), Y, 2, "sample 4 has NaN"),
        (X.masked_fill(torch.arange(6)[:, None] == 2, -math.inf), Y, 2, "sample 2 has NaN or inf"),
    ],
)
def test_fit_softmax_refuses_bad_features_and_labels(x, y, classes, said):
    with pytest.raises(ValueError, match=said) as caught:
        fit_softmax(x, y, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_constants_out_of_range(bad):
    with pytest.raises(ValueError, match=r"^C "):
        fit_softmax(X, Y, 2, C=bad)
    with pytest.raises(ValueError, match=r"^tol "):
        fit_softmax(X, Y, 2, tol=bad)


def test_a_model_takes_its_own_width():
    with pytest.raises(ValueError, match="shape"):
        fit_softmax(X, Y, 2).predict(X[:, :2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_softmax_regression_on_a_gpu_predicts_the_same():
    x, labels = cone(6000, 300, 10)
    there = fit(torch.as_tensor(x).float().cuda(), labels)
    here = fit(torch.as_tensor(x).float(), labels)
    assert there.converged
    assert (there.predict(x).cpu() == here.predict(x)).float().mean() >= 0.999
