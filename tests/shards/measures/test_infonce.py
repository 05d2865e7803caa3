"""InfoNCE, retrieval, uniformity, alignment: closed forms, chunks, inputs without an answer."""

import tracemalloc
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from shards.measures.infonce import (
    TEMPERATURE,
    Contrast,
    alignment,
    batch_infonce,
    centred_retrieval,
    full_infonce,
    losses_by_temperature,
    paper_infonce,
    paper_log_batch,
    paper_uniformity,
    paper_uniformity_distinct,
    tuned_temperature,
    uniformity,
    uniformity_with_self,
)
from tests.shards.measures.made import normal, related, rotation, unit_rows


@pytest.fixture(scope="module")
def features():
    made = related()
    return SimpleNamespace(test_ND=unit_rows(made.student), teacher_ND=unit_rows(made.teacher))


EYE = np.eye(6, dtype=np.float32)
PAIR = np.array([[1, 0], [-1, 0]], dtype=np.float32)


def near(expected: Contrast):
    return pytest.approx(astuple(expected), abs=1e-12)


# ---- closed forms ----


def test_infonce_of_orthogonal_and_of_equal_rows():
    known = np.log(1 + 5 * np.exp(-10))
    assert batch_infonce(EYE, EYE) == pytest.approx(known, abs=1e-12)
    assert batch_infonce(EYE, EYE, temperature=1e-4) == pytest.approx(0)  # no overflow
    same = unit_rows(np.ones((6, 3)))
    assert batch_infonce(same, same) == pytest.approx(np.log(6))
    assert astuple(full_infonce(EYE, EYE)) == near(Contrast(known, known, 1.0, 1.0))
    assert astuple(full_infonce(EYE, np.roll(EYE, 1, axis=0))) == near(
        Contrast(10 + known, 10 + known, 0.0, 0.0)
    )
    assert astuple(full_infonce(same, same)) == near(Contrast(np.log(6), np.log(6), 1 / 6, 1 / 6))
    assert full_infonce(EYE[:1], EYE[:1]) == Contrast(0.0, 0.0, 1.0, 1.0)


def test_both_directions_differ_where_one_side_is_ambiguous():
    """Two students at one place: from them both teachers look alike, back each finds the first."""
    teacher = np.eye(3)
    student = teacher[[0, 0, 2]]
    found = full_infonce(student, teacher)
    assert (found.hits, found.reverse_hits) == (2 / 3, 2 / 3)
    assert found.loss == pytest.approx(batch_infonce(student, teacher))
    assert found.reverse_loss == pytest.approx(batch_infonce(teacher, student))
    assert found.loss != pytest.approx(found.reverse_loss)
    lonely = np.array([[0.6, 0.8], [1.0, 0.0]])  # a row between, and the hub of both
    found = full_infonce(lonely, np.array([[1.0, 0.0], [0.8, 0.6]]))
    assert (found.hits, found.reverse_hits) == (0.0, 0.0)


@pytest.mark.parametrize("d", [3, 512])
def test_a_collapsed_student_retrieves_by_chance(d):
    x_ND = unit_rows(np.repeat(np.random.default_rng(0).normal(size=(1, d)), 600, axis=0))
    y_ND = unit_rows(np.random.default_rng(1).normal(size=(600, d)))
    for found in (full_infonce(x_ND, x_ND), full_infonce(x_ND, y_ND), full_infonce(y_ND, x_ND)):
        assert found.hits < 0.05
        assert found.reverse_hits < 0.05


def test_the_bound_is_the_mean_of_ln_batch_where_batches_differ():
    assert paper_log_batch(128) == pytest.approx(np.log(64))
    assert paper_log_batch(10_000) == pytest.approx((156 * np.log(64) + np.log(16)) / 157)
    same = unit_rows(np.ones((80, 3)))
    assert paper_infonce(same, same) == pytest.approx(paper_log_batch(80))


def test_uniformity_with_and_without_self():
    assert uniformity(PAIR) == pytest.approx(-8)
    assert uniformity_with_self(PAIR) == pytest.approx(np.log((1 + np.exp(-8)) / 2))
    assert uniformity(np.repeat(PAIR[:1], 5, axis=0)) == pytest.approx(0)
    assert uniformity_with_self(np.repeat(PAIR[:1], 5, axis=0)) == pytest.approx(0)
    assert np.isnan(uniformity(PAIR[:1]))
    assert uniformity_with_self(PAIR[:1]) == 0


def test_alignment_is_2_minus_2_cos():
    x_ND, y_ND = unit_rows(normal(50, 5)), unit_rows(normal(50, 5, seed=1))
    cosine = np.mean(np.sum(x_ND * y_ND, axis=1))
    assert alignment(x_ND, y_ND) == pytest.approx(2 - 2 * cosine)
    assert alignment(PAIR, -PAIR) == 4
    assert alignment(PAIR, PAIR) == 0


def test_short_last_batches_weigh_as_much_as_others(features):
    x_ND, y_ND = features.test_ND[:65], features.teacher_ND[:65]
    both = batch_infonce(x_ND[:64], y_ND[:64]), batch_infonce(x_ND[64:], y_ND[64:])
    assert paper_infonce(x_ND, y_ND) == pytest.approx(sum(both) / 2)
    spread = uniformity_with_self(x_ND[:64]), uniformity_with_self(x_ND[64:])
    assert paper_uniformity(x_ND) == pytest.approx(sum(spread) / 2)
    assert paper_uniformity_distinct(x_ND) == pytest.approx(uniformity(x_ND[:64]))
    assert np.isnan(paper_uniformity_distinct(x_ND[:1]))


# ---- against other code, in whatever pieces ----


def test_the_full_set_is_torchs_cross_entropy_and_scipys_distances(features):
    x, y = features.test_ND.astype(np.float64), features.teacher_ND.astype(np.float64)
    x = unit_rows(x + 0.4 * np.random.default_rng(0).normal(size=x.shape))
    logits, own = torch.from_numpy(x @ y.T / 0.1), torch.arange(len(x))
    entropy = torch.nn.functional.cross_entropy
    found = full_infonce(x, y)
    assert found.loss == pytest.approx(entropy(logits, own).item(), abs=1e-12)
    assert found.reverse_loss == pytest.approx(entropy(logits.T, own).item(), abs=1e-12)
    assert found.hits == np.mean(np.argmax(x @ y.T, axis=1) == own.numpy())
    assert found.reverse_hits == np.mean(np.argmax(y @ x.T, axis=1) == own.numpy())
    assert 0.1 < found.hits < 0.9
    assert 0.1 < found.reverse_hits < 0.9
    assert found.hits != found.reverse_hits
    squared = cdist(x, x, "sqeuclidean")
    far = squared[~np.eye(len(x), dtype=bool)]
    assert uniformity(x) == pytest.approx(np.log(np.exp(-2 * far).mean()), abs=1e-12)
    assert uniformity_with_self(x) == pytest.approx(np.log(np.exp(-2 * squared).mean()), abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 64, 149, 150, 4096])
def test_infonce_in_chunks_is_the_same(features, chunk, monkeypatch):
    x_ND, y_ND = features.test_ND, features.teacher_ND
    expected, spread = full_infonce(x_ND, y_ND), uniformity(x_ND)
    monkeypatch.setitem(full_infonce.__globals__, "CHUNK", chunk)
    assert astuple(full_infonce(x_ND, y_ND)) == near(expected)
    assert uniformity(x_ND) == pytest.approx(spread, abs=1e-12)


def test_n_by_n_is_never_whole_in_memory():
    x_ND = unit_rows(np.random.default_rng(0).normal(size=(6000, 8)))
    tracemalloc.start()
    full_infonce(x_ND, x_ND)
    uniformity(x_ND)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 8 / 2


def test_a_common_rotation_or_order_changes_nothing(features):
    x, y, turn = features.test_ND, features.teacher_ND, rotation(24)
    expected = full_infonce(x, y)
    assert astuple(full_infonce(x @ turn, y @ turn)) == near(expected)
    assert astuple(full_infonce(x[::-1].copy(), y[::-1].copy())) == near(expected)
    assert uniformity(x @ turn) == pytest.approx(uniformity(x))
    assert alignment(x @ turn, y @ turn) == pytest.approx(alignment(x, y))


def test_bfloat16_is_measured_as_the_numbers_it_is(features):
    x, y = (torch.from_numpy(z).bfloat16() for z in (features.test_ND, features.teacher_ND))
    exact = x.double().numpy(), y.double().numpy()
    assert full_infonce(x, y) == full_infonce(*exact)
    assert paper_infonce(x, y) == paper_infonce(*exact)
    assert uniformity(x) == uniformity(exact[0])
    assert alignment(x, y) == alignment(*exact)


@pytest.mark.parametrize(
    ("x_ND", "said"),
    [
        (np.full((6, 6), np.nan), "got NaN or infinity"),
        (np.ones((5, 6)), r"equal shape; got \(5, 6\) and \(6, 6\)"),
        (np.ones(6), r"must be rows \(N, D\), at least one; got \(6,\)"),
        (np.ones((0, 6)), r"got \(0, 6\)"),
    ],
)
def test_infonce_refuses_bad_input(x_ND, said):
    for measure in (batch_infonce, full_infonce, alignment):
        with pytest.raises(ValueError, match=said):
            measure(x_ND, EYE)
    if "equal" not in said:
        with pytest.raises(ValueError, match=said):
            uniformity(x_ND)


# ---- the width of the cone ----


def in_a_cone(cosine: float, count: int = 2000, d: int = 64, seed: int = 0) -> np.ndarray:
    """Unit vectors of which two random ones have this cosine on average."""
    x_ND = np.random.default_rng(seed).normal(size=(count, d))
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    axis_D = np.zeros(d)
    axis_D[0] = 1
    x_ND = np.sqrt(1 - cosine) * x_ND + np.sqrt(cosine) * axis_D
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def test_a_fixed_temperature_measures_the_cone_a_tuned_one_and_the_share_do_not():
    bounds, tuned, centred = [], [], []
    for cosine in (0.0, 0.5, 0.8, 0.9):
        x_ND = in_a_cone(cosine)
        temperature = tuned_temperature(x_ND, x_ND, 0)
        losses_T = losses_by_temperature(x_ND, x_ND, (TEMPERATURE, temperature))
        bounds.append(np.log(2000) - losses_T[0])
        tuned.append(np.log(2000) - losses_T[1])
        centred.append(centred_retrieval(x_ND, x_ND, x_ND.mean(axis=0), x_ND.mean(axis=0)))
    assert bounds == pytest.approx([7.40, 4.56, 1.88, 0.92], abs=0.5)
    assert tuned == pytest.approx([np.log(2000)] * 4, abs=0.05)
    assert centred == [1.0] * 4


def test_losses_at_several_temperatures_are_those_of_each():
    x_ND, y_ND = in_a_cone(0.2, 700), in_a_cone(0.2, 700, seed=1)
    expected = [full_infonce(x_ND, y_ND, t).loss for t in (0.05, 0.1, 1.0)]
    assert losses_by_temperature(x_ND, y_ND, (0.05, 0.1, 1.0)) == pytest.approx(expected)
