"""Targets: what each does to the teacher's covariance, in closed form, and what is refused."""

import numpy as np
import pytest
import torch

from shards.bank.order import keyed_order
from shards.bank.reader import load_manifest
from shards.bank.splits import Split, load_splits
from trainers.canonical import make_config
from trainers.objectives.targets import (
    Target,
    equalising_rotation,
    make_target,
    moments_of,
    raw_rows,
)
from trainers.probes.projection import principal_projection

N, LEAST = 600, {"dataset": "digits", "teacher": "embedded", "student": "width:1"}


def split_of(raw_ND: np.ndarray) -> Split:
    """A split whose stored embeddings are these rows, as near as fp16 has them."""
    norm_N = np.linalg.norm(raw_ND, axis=1)
    unit_NVD = (raw_ND / norm_N[:, None])[:, None].astype(np.float16)
    labels_N = np.arange(len(raw_ND)) % 3
    keys = tuple(map(str, range(len(raw_ND))))
    nothing = np.zeros((len(raw_ND), 1, 0), dtype=np.int64)
    return Split(keys, nothing, labels_N, nothing, unit_NVD, norm_N[:, None].astype(np.float32))


def correlated(dim: int, count: int = N) -> Split:
    rng = np.random.default_rng(dim)
    scales = 3 / np.sqrt(np.arange(1, dim + 1))
    turn_DD = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return split_of(rng.normal(size=(count, dim)) * scales @ turn_DD + rng.normal(size=dim))


def rows_of(split: Split) -> torch.Tensor:
    return torch.from_numpy(raw_rows(split.embedding_NVD, split.norm_NV, slice(None))).float()


def made(spec: str, split: Split) -> np.ndarray:
    target = make_target(spec, split, 3)
    return target(rows_of(split), torch.from_numpy(split.labels_N)).double().numpy()


def spectrum(x_ND: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(x_ND.T, ddof=0))[::-1]


def effective_rank(x_ND: np.ndarray) -> float:
    p = spectrum(x_ND) / spectrum(x_ND).sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def test_the_teachers_own_are_left_as_they_are():
    split = correlated(16)
    assert np.array_equal(made("teacher", split), rows_of(split).double().numpy())


def test_moments_are_those_of_numpy_whatever_the_chunk(monkeypatch):
    split = correlated(12)
    x_ND = raw_rows(split.embedding_NVD, split.norm_NV, slice(None))
    for chunk in (1, 7, N, 10 * N):
        monkeypatch.setattr("trainers.objectives.targets.CHUNK", chunk)
        moments = moments_of(split)
        assert moments.mean_D == pytest.approx(x_ND.mean(axis=0), abs=1e-12)
        assert moments.covariance_DD == pytest.approx(np.cov(x_ND.T, ddof=0), abs=1e-12)
    lambda_D, u_DD = moments.principal
    assert np.all(np.diff(lambda_D) <= 0)
    assert u_DD.T @ u_DD == pytest.approx(np.eye(12), abs=1e-12)
    assert u_DD * lambda_D @ u_DD.T == pytest.approx(moments.covariance_DD, abs=1e-12)
    assert (u_DD[np.abs(u_DD).argmax(axis=0), np.arange(12)] > 0).all()


def test_standardised_has_mean_0_and_deviation_1():
    x_ND = made("standardised", correlated(12))
    assert x_ND.mean(axis=0) == pytest.approx(np.zeros(12), abs=1e-6)
    assert x_ND.std(axis=0) == pytest.approx(np.ones(12), abs=1e-6)


@pytest.mark.parametrize("constant", [0, 1e-5, 1, 100])
def test_a_dimension_that_never_varies_is_centred(constant):
    """Stored in fp16 it varies by rounding alone, which is not stretched to deviation 1."""
    raw_ND = np.random.default_rng(0).normal(size=(N, 4))
    raw_ND[:, 2] = constant
    x_ND = made("standardised", split_of(raw_ND))
    assert x_ND[:, 2] == pytest.approx(np.zeros(N), abs=5e-4 * constant + 1e-6)
    assert x_ND[:, [0, 1, 3]].std(axis=0) == pytest.approx(np.ones(3), abs=1e-6)


def test_a_dimension_that_varies_little_beside_its_mean_is_standardised():
    raw_ND = np.random.default_rng(0).normal(size=(N, 4))
    raw_ND[:, 2] = 1 + 1e-3 * raw_ND[:, 2]
    assert made("standardised", split_of(raw_ND))[:, 2].std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 12, 16, 48, 64])
def test_phi_s_evens_the_scale_and_leaves_the_effective_rank(dim):
    split = correlated(dim)
    x_ND, raw_ND = made("phi_s", split), made("teacher", split)
    assert x_ND.mean(axis=0) == pytest.approx(np.zeros(dim), abs=1e-5)
    assert x_ND.var(axis=0) == pytest.approx(np.ones(dim), abs=1e-5)
    if dim > 1:
        assert effective_rank(x_ND) == pytest.approx(effective_rank(raw_ND), rel=1e-5)
        assert effective_rank(x_ND) < 0.95 * dim  # there was something to leave


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 12, 20, 32])
def test_the_rotation_is_orthogonal_and_evens_any_spectrum(dim):
    for lambda_D in (1 / np.arange(1, dim + 1), np.eye(dim)[0], np.ones(dim), np.zeros(dim)):
        h_DD = equalising_rotation(lambda_D)
        assert h_DD @ h_DD.T == pytest.approx(np.eye(dim), abs=1e-12)
        evened_D = (h_DD * lambda_D @ h_DD.T).diagonal()
        assert evened_D == pytest.approx(np.full(dim, lambda_D.mean()), abs=1e-12)
    if dim in (8, 32):
        assert np.abs(h_DD) == pytest.approx(np.full((dim, dim), dim**-0.5))
        assert (h_DD[0] > 0).all()


def test_whitened_has_identity_covariance():
    x_ND = made("whitened:1e-9", correlated(12))
    assert np.cov(x_ND.T, ddof=0) == pytest.approx(np.eye(12), abs=1e-5)
    assert x_ND.mean(axis=0) == pytest.approx(np.zeros(12), abs=1e-6)


def test_whitening_leaves_directions_below_its_floor_small():
    split, eps = correlated(12), 0.5
    lambda_D = spectrum(made("teacher", split))
    found_D = spectrum(made(f"whitened:{eps}", split))
    assert found_D == pytest.approx(lambda_D / (lambda_D + eps * lambda_D.mean()), rel=1e-4)


def test_whitening_fewer_samples_than_dimensions_stays_finite():
    x_ND = made("whitened", correlated(32, count=10))
    values_D = spectrum(x_ND)
    assert np.isfinite(x_ND).all()
    assert values_D[:9] == pytest.approx(np.ones(9), rel=0.01)
    assert values_D[9:] == pytest.approx(np.zeros(23), abs=1e-3)


@pytest.mark.parametrize("k", [1, 4, 11, 12])
def test_pca_has_rank_k_in_the_teachers_own_space(k):
    split = correlated(12)
    x_ND, raw_ND = made(f"pca:{k}", split), made("teacher", split)
    values_D, own_D = spectrum(x_ND), spectrum(raw_ND)
    assert values_D[:k] == pytest.approx(own_D[:k], rel=1e-5)
    assert values_D[k:] == pytest.approx(np.zeros(12 - k), abs=1e-10)
    assert x_ND.mean(axis=0) == pytest.approx(raw_ND.mean(axis=0), abs=1e-5)
    lost = ((x_ND - raw_ND) ** 2).sum(axis=1).mean()
    assert lost == pytest.approx(own_D[k:].sum(), abs=1e-5)  # the best that rank k can do


def test_teacher_pca_is_what_a_perfect_student_of_that_target_gives():
    split = correlated(12)
    found_ND = principal_projection("teacher_pca:4", split)(split, 0)
    assert found_ND == pytest.approx(made("pca:4", split)[keyed_order(split.keys)], abs=1e-5)


def test_labels_are_one_hot():
    x_NC = made("labels", correlated(12))
    assert x_NC.argmax(axis=1).tolist() == (np.arange(N) % 3).tolist()
    assert np.array_equal(np.unique(x_NC), [0, 1])
    assert x_NC.sum() == N


def test_statistics_of_a_streamed_split_are_the_same(bank):
    manifest = load_manifest(bank)
    kept, left = (
        load_splits(bank, manifest, "train", ("clean",), streaming=streaming)["clean"]
        for streaming in (False, True)
    )
    one, other = (make_target("phi_s", split, 10) for split in (kept, left))
    assert torch.equal(one.matrix_ED, other.matrix_ED)
    assert torch.equal(one.mean_D, other.mean_D)


def test_a_row_does_not_depend_on_the_batch_it_is_in():
    split = correlated(64)
    target, raw_ND = make_target("whitened", split, 3), rows_of(split)
    labels_N = torch.from_numpy(split.labels_N)
    whole_ND = target(raw_ND, labels_N)
    parts = [target(raw_ND[i : i + 7], labels_N[i : i + 7]) for i in range(0, N, 7)]
    assert (torch.cat(parts) == whole_ND).float().mean() > 0.999  # float64 inside
    assert isinstance(target, Target)
    assert whole_ND.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pca", "target: `pca`: write pca:K, K a whole number of 1 or more"),
        ("pca:0", "write pca:K"),
        ("pca:2.5", "write pca:K"),
        ("whitened:0", "EPS must be a number in (0, 1]"),
        ("whitened:nan", "EPS must be a number in (0, 1]"),
        ("whitened:much", "EPS must be a number in (0, 1]"),
        ("phi_s:2", "`phi_s` takes no argument"),
        ("phi", "unknown target `phi`; did you mean `phi_s`?"),
        ("labels", "labels are for `supervised` alone"),
    ],
)
def test_targets_that_are_refused(spec, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        make_config(LEAST | {"target": spec})
    assert said in str(caught.value)


def test_more_components_than_the_bank_has_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="pca:13"):
        make_target("pca:13", correlated(12), 3)
    with pytest.raises(ValueError, match=r"pca:10.* 9 "):
        make_target("pca:10", correlated(12, count=10), 3)
    with pytest.raises(ValueError, match="teacher_pca:13"):
        principal_projection("teacher_pca:13", correlated(12))
