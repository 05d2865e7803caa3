"""What is called `paper`, and what it rests on, against the procedure written out elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from shards.arms.ops import NormalisedNoise
from tests.golden import paper
from trainers.probes import PROBES, run_probes


@pytest.fixture(scope="module")
def measured(features):
    return run_probes(tuple(PROBES), features, "test")


def test_paper_metrics_equal_the_papers_code(features, measured):
    metrics, arrays = measured
    x, y = features.test_ND, features.teacher_ND
    fitted = paper.linear_probe(features.train_ND, features.train_labels_N)
    expected = {
        "rank/paper/effective": paper.effective_rank(x),
        "rank/effective": paper.effective_rank(x),
        "dims/90": paper.dims_for_variance(x, 0.90),
        "dims/95": paper.dims_for_variance(x, 0.95),
        "dims/99": paper.dims_for_variance(x, 0.99),
        "linear/paper/accuracy": paper.accuracy(fitted, x, features.test_labels_N),
        "infonce/paper": paper.infonce(x, y),
        "infonce/paper/reverse": paper.infonce(y, x),
        "uniformity/paper": paper.uniformity(x),
    }
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name
    assert arrays["test/subspace"] == pytest.approx(paper.subspace_alignment(x, y), abs=1e-6)
    assert 0.4 < expected["linear/paper/accuracy"] < 1  # the agreement is about something
    assert len(x) % 64 not in (0, 1)  # a short last batch takes part
    assert len(features.train_ND) % 64 == 0


@pytest.mark.thorough
def test_at_512_dimensions_the_papers_logarithm_is_told_apart():
    """Its 1e-10 matters in the sixth digit there, so it has a name of its own."""
    from shards.measures.spectrum import centred_eigenvalues, paper_rank, rank_from_eigenvalues
    from tests.shards.measures.made import normal
    from trainers.probes.features import unit

    x_ND = unit(normal(1500, 512) * np.arange(1, 513) ** 0.5)
    values_D = centred_eigenvalues(x_ND)
    assert paper_rank(values_D) == pytest.approx(paper.effective_rank(x_ND), abs=1e-9)
    assert 1e-6 < abs(rank_from_eigenvalues(values_D) - paper.effective_rank(x_ND)) < 1e-4


def test_the_last_short_batch_of_train_is_dropped(features):
    """Its 63 rows are turned round: with them the classifier would be another."""
    extra = -features.train_ND[:63]
    train = np.concatenate([features.train_ND, extra])
    labels = np.concatenate([features.train_labels_N, features.train_labels_N[:63]])
    bank = replace(features, train_ND=train, train_labels_N=labels, cache={})
    theirs = paper.linear_probe(train.astype(np.float64), labels)
    metrics, _ = run_probes(("linear",), bank, "test")
    score = paper.accuracy(theirs, features.test_ND, features.test_labels_N)
    assert metrics["test/linear/paper/accuracy"] == pytest.approx(score, abs=1e-6)
    assert metrics["test/linear/paper/n"] == 320


class Given:
    """A generator whose normal variates are known."""

    def __init__(self, z):
        self.z = z

    def standard_normal(self, shape):
        assert self.z.shape == shape
        return self.z


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_noise_is_the_papers(sigma):
    """x + sigma z on normalised pictures, never clipped, z standard normal."""
    images = torch.linspace(-3, 3, 4 * 3 * 32 * 32).view(4, 3, 32, 32)
    params = torch.arange(4)[:, None] * 7919
    z = NormalisedNoise(1.0).normalised(torch.zeros_like(images), params).numpy()
    ours = NormalisedNoise(sigma).normalised(images, params).numpy()
    np.testing.assert_allclose(ours, paper.noisy(images.numpy(), sigma, Given(z)), atol=1e-6)
    assert kstest(z.ravel(), "norm").pvalue > 0.01
    assert abs(ours).max() > 3


def test_noise_is_judged_by_the_clean_classifier(features, measured):
    metrics, _ = measured
    fitted = paper.linear_probe(features.train_ND, features.train_labels_N)
    drawn = [features.subject.embed("test", "noise:0.1", view) for view in range(features.draws)]
    scores = [paper.accuracy(fitted, x_ND, features.test_labels_N) for x_ND in drawn]
    assert metrics["test/noise/pixel/0.1/accuracy"] == pytest.approx(np.mean(scores))
