"""What is called `paper`, and what it rests on, against the procedure written out elsewhere."""

import numpy as np
import pytest

from tests.golden import paper
from trainers.probes import PROBES, run_probes


@pytest.fixture(scope="module")
def measured(features):
    return run_probes(tuple(PROBES), features, "test")


def test_the_papers_figures(features, measured):
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


def test_at_512_dimensions_the_papers_logarithm_is_told_apart():
    """Its 1e-10 matters in the sixth digit there, so it has a name of its own."""
    from tests.trainers.probes.made import normal
    from trainers.probes.features import unit
    from trainers.probes.spectrum import centred_eigenvalues, paper_rank, rank_of

    x_ND = unit(normal(1500, 512) * np.arange(1, 513) ** 0.5)
    values_D = centred_eigenvalues(x_ND)
    assert paper_rank(values_D) == pytest.approx(paper.effective_rank(x_ND), abs=1e-9)
    assert 1e-6 < abs(rank_of(values_D) - paper.effective_rank(x_ND)) < 1e-4


def test_noise_is_judged_by_the_clean_classifier(features, measured):
    metrics, _ = measured
    fitted = paper.linear_probe(features.train_ND, features.train_labels_N)
    drawn = [features.subject.embed("test", "noise:0.1", view) for view in range(features.draws)]
    scores = [paper.accuracy(fitted, x_ND, features.test_labels_N) for x_ND in drawn]
    assert metrics["test/noise/pixel/0.1/accuracy"] == pytest.approx(np.mean(scores))
