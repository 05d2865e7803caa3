"""Probes: closed forms, what must not change them, and the paper's procedure written out."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from trainers.probes import PROBES, run_probes
from trainers.probes.features import FeatureBank, Stored, unit
from trainers.probes.infonce import (
    batch_infonce,
    full_infonce,
    paper_infonce,
    paper_uniformity,
    uniformity,
    uniformity_with_self,
)
from trainers.probes.spectrum import (
    centred_eigenvalues,
    dims_for,
    effective_rank,
    participation_ratio,
    rankme,
    roy_vetterli_rank,
)

RANKS = {
    "effective": effective_rank,
    "roy_vetterli": lambda x: roy_vetterli_rank(centred_eigenvalues(x)),
    "participation": lambda x: participation_ratio(centred_eigenvalues(x)),
}


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    scales = 1 / np.arange(1, d + 1)
    return np.random.default_rng(seed).normal(size=(n, d)) * scales


def orthonormal_centred(n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(n, d))
    return np.linalg.qr(x - x.mean(axis=0))[0]


@pytest.fixture(scope="module")
def features():
    """Correlated student and teacher, classes that can be half told apart."""
    rng = np.random.default_rng(1)
    labels, test_labels = rng.integers(0, 4, 300), rng.integers(0, 4, 150)
    centres = rng.normal(size=(4, 24))
    train = centres[labels] + rng.normal(size=(300, 24))
    teacher = centres[test_labels] + rng.normal(size=(150, 24))
    student = teacher + 0.5 * rng.normal(size=(150, 24))
    noisy = np.stack([student + rng.normal(size=student.shape) for _ in range(3)])
    stored = {("test", "noise:0.1", view): unit(x_ND) for view, x_ND in enumerate(noisy)}
    return FeatureBank(
        train_ND=unit(train),
        train_labels_N=labels,
        test_ND=unit(student),
        test_labels_N=test_labels,
        teacher_ND=unit(teacher),
        teacher_train_ND=unit(train),
        subject=Stored(stored),
        test_arms=("noise:0.1",),
        draws=3,
    )


# ---- closed forms ----


@pytest.mark.parametrize("measure", RANKS.values(), ids=RANKS)
def test_orthonormal_centred_columns_give_d_and_rank_one_gives_one(measure):
    assert measure(orthonormal_centred(50, 8)) == pytest.approx(8, abs=1e-9)
    line = np.outer(np.random.default_rng(0).normal(size=40), np.ones(64))
    assert measure(line) == pytest.approx(1, abs=1e-9)
    assert measure(line[:, :1]) == pytest.approx(1, abs=1e-12)  # D = 1


@pytest.mark.parametrize("measure", RANKS.values(), ids=RANKS)
def test_constants_scales_and_rotations_change_nothing(measure):
    x_ND = normal(60, 10)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(10, 10)))[0]
    for other in (x_ND + 5, x_ND @ rotation, 1e-3 * x_ND, x_ND[::-1]):
        assert measure(other) == pytest.approx(measure(x_ND), rel=1e-9)


def test_two_known_variances():
    x_ND = orthonormal_centred(30, 2) * np.sqrt([3, 1])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(x_ND) == pytest.approx(np.exp(entropy))
    assert participation_ratio(centred_eigenvalues(x_ND)) == pytest.approx(16 / 10)
    share = np.sqrt(3) / (np.sqrt(3) + 1)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert roy_vetterli_rank(centred_eigenvalues(x_ND)) == pytest.approx(np.exp(entropy))


def test_rankme_of_orthonormal_columns():
    assert rankme(np.eye(20, 8)) == pytest.approx(8, rel=1e-5)
    assert rankme(np.zeros((5, 3))) == 0


def test_dims_for():
    values_D = np.array([6.0, 3.0, 1.0, 0.0])
    assert [dims_for(values_D, s) for s in (0.5, 0.6, 0.61, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6])
def test_nothing_varies(value):
    x_ND = np.full((37, 5), value, dtype=np.float32)
    assert [measure(x_ND) for measure in RANKS.values()] == [0, 0, 0]
    assert dims_for(centred_eigenvalues(x_ND), 0.9) == 0


def test_fewer_samples_than_dimensions():
    x_ND = np.random.default_rng(0).normal(size=(6, 50))
    values_D = centred_eigenvalues(x_ND)
    assert values_D.shape == (50,)
    assert np.count_nonzero(values_D) == 5  # N - 1
    assert effective_rank(x_ND) <= 5
    assert roy_vetterli_rank(values_D) <= 5 + 1e-9


@pytest.mark.parametrize(
    ("x_ND", "said"),
    [
        (np.ones((1, 4)), r"at least 2 samples in rows; got shape \(1, 4\)"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "got NaN or infinity"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "got NaN or infinity"),
    ],
)
def test_no_spectrum(x_ND, said):
    with pytest.raises(ValueError, match=said):
        effective_rank(x_ND)


def test_rankme_refuses_nan():
    with pytest.raises(ValueError, match="got NaN or infinity"):
        rankme(np.array([[np.nan, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_that_cannot_be_normalised_are_named(bad):
    rows_ND = np.ones((4, 3))
    rows_ND[2] = bad
    with pytest.raises(ValueError, match="embedding 2 is not finite or has norm 0"):
        unit(rows_ND)


def test_infonce_closed_forms():
    eye_ND, ones_ND = np.eye(6, dtype=np.float32), unit(np.ones((6, 3)))
    assert batch_infonce(eye_ND, eye_ND) == pytest.approx(np.log(1 + 5 * np.exp(-10)), abs=1e-12)
    assert batch_infonce(ones_ND, ones_ND) == pytest.approx(np.log(6))
    assert full_infonce(eye_ND, eye_ND)[1] == 1.0
    assert full_infonce(eye_ND, np.roll(eye_ND, 1, axis=0)) == pytest.approx(
        (10 + np.log(1 + 5 * np.exp(-10)), 0.0)
    )
    assert batch_infonce(eye_ND, eye_ND, temperature=1e-4) == pytest.approx(0)  # no overflow
    one_ND = eye_ND[:1]
    assert full_infonce(one_ND, one_ND) == (0.0, 1.0)


def test_uniformity_closed_forms():
    pair_ND = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    assert uniformity(pair_ND) == pytest.approx(-8)
    assert uniformity_with_self(pair_ND) == pytest.approx(np.log((1 + np.exp(-8)) / 2))
    assert uniformity(np.repeat(pair_ND[:1], 5, axis=0)) == pytest.approx(0)
    assert np.isnan(uniformity(pair_ND[:1]))


@pytest.mark.parametrize("chunk", [1, 7, 64, 149, 150, 4096])
def test_full_set_measures_do_not_depend_on_the_chunk(features, chunk, monkeypatch):
    x_ND, y_ND = features.test_ND, features.teacher_ND
    expected = (*full_infonce(x_ND, y_ND), uniformity(x_ND))
    monkeypatch.setitem(full_infonce.__globals__, "CHUNK", chunk)
    found = (*full_infonce(x_ND, y_ND), uniformity(x_ND))
    assert found == pytest.approx(expected, abs=1e-12)


# ---- the paper's procedure, written out (arXiv 2603.06698) ----


def paper(bank: FeatureBank) -> dict[str, float]:
    x, y = bank.test_ND.astype(np.float64), bank.teacher_ND.astype(np.float64)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    p = s**2 / np.sum(s**2)
    classifier = LogisticRegression(C=1.0, solver="lbfgs", max_iter=2000)
    classifier.fit(bank.train_ND, bank.train_labels_N)
    losses, spreads = [], []
    for at in range(0, len(x), 64):
        a, b = torch.from_numpy(x[at : at + 64]), torch.from_numpy(y[at : at + 64])
        logits = a @ b.T / 0.1
        losses.append(torch.nn.functional.cross_entropy(logits, torch.arange(len(a))).item())
        spreads.append(np.log(np.exp(-2 * cdist(a, a, "sqeuclidean")).mean()))
    logits = torch.from_numpy(x @ y.T / 0.1)
    full = torch.nn.functional.cross_entropy(logits, torch.arange(len(x))).item()
    far = cdist(x, x, "sqeuclidean")[~np.eye(len(x), dtype=bool)]
    noisy = [bank.subject.embed("test", "noise:0.1", v) for v in range(bank.draws)]
    scores = [classifier.score(v, bank.test_labels_N) for v in noisy]
    kept = [np.sum(v.astype(float) * x, axis=1).mean() for v in noisy]
    return {
        "rank/effective": np.exp(-np.sum(p * np.log(p + 1e-10))),
        "rank/roy_vetterli": np.exp(-np.sum(s / s.sum() * np.log(s / s.sum()))),
        "rank/participation": 1 / np.sum(p**2),
        "dims/90": np.argmax(np.cumsum(p) >= 0.9) + 1,
        "dims/95": np.argmax(np.cumsum(p) >= 0.95) + 1,
        "dims/99": np.argmax(np.cumsum(p) >= 0.99) + 1,
        "cosine_to_teacher": np.mean([a @ b for a, b in zip(x, y, strict=True)]),
        "linear/paper/accuracy": classifier.score(bank.test_ND, bank.test_labels_N),
        "noise/pixel/0.1/accuracy": np.mean(scores),
        "noise/pixel/0.1/cosine": np.mean(
            [np.sum(v.astype(float) * x, axis=1).mean() for v in noisy]
        ),
        "infonce/paper": np.mean(losses),
        "infonce/full": full,
        "infonce/bound": np.log(len(x)) - full,
        "infonce/retrieval1": np.mean(np.argmax(x @ y.T, axis=1) == np.arange(len(x))),
        "alignment": np.mean(np.sum((x - y) ** 2, axis=1)),
        "uniformity": np.log(np.exp(-2 * far).mean()),
        "uniformity/paper": np.mean(spreads),
    }


def test_the_papers_procedure(features):
    metrics, arrays = run_probes(tuple(PROBES), features, "test")
    expected = paper(features)
    assert {f"test/{name}" for name in expected} == set(metrics) - {"test/rank/rankme"}
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name
    assert 0.4 < metrics["test/linear/paper/accuracy"] < 1  # the agreement above is about something
    assert len(features.test_ND) % 64 not in (0, 1)
    assert sum(arrays["test/spectrum"]) == pytest.approx(1)
    assert len(arrays["test/spectrum"]) == 24
    x = features.test_ND.astype(np.float64)
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert metrics["test/rank/rankme"] == pytest.approx(np.exp(-np.sum(p * np.log(p))), abs=1e-6)


def test_short_last_batches_weigh_as_much_as_others(features):
    x_ND, y_ND = features.test_ND[:65], features.teacher_ND[:65]
    both = batch_infonce(x_ND[:64], y_ND[:64]), batch_infonce(x_ND[64:], y_ND[64:])
    assert paper_infonce(x_ND, y_ND) == pytest.approx(sum(both) / 2)
    spread = uniformity_with_self(x_ND[:64]), uniformity_with_self(x_ND[64:])
    assert paper_uniformity(x_ND) == pytest.approx(sum(spread) / 2)


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_prefixes_its_names_and_gives_plain_values(features, probe):
    metrics, arrays = run_probes((probe,), features, "teacher")
    assert metrics
    for name in [*metrics, *arrays]:
        assert name.startswith("teacher/")
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())
    assert all(type(value) is list for value in arrays.values())
    again, _ = run_probes((probe,), features, "teacher")
    assert again == metrics
