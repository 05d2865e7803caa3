"""The paper's rank of the mean spectrum."""

import numpy as np
import pytest

from sweep.analysis.mean_spectrum import rank_of_mean_spectrum
from tests.golden import paper


def test_it_is_the_rank_of_the_mean_of_the_shares() -> None:
    x_ND = np.random.default_rng(0).standard_normal((200, 8)) * np.arange(1, 9)
    shares = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2
    shares /= shares.sum()
    # Of one seed, or equal seeds, it is the paper's rank of that seed.
    assert rank_of_mean_spectrum([shares.tolist()] * 3) == pytest.approx(paper.effective_rank(x_ND))
    # Two seeds of rank 1 along other components (a made case): their mean has rank 2, not 1.
    assert rank_of_mean_spectrum([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) == pytest.approx(2)


@pytest.mark.parametrize("spectra", [[], [[1.0], [0.5, 0.5]]])
def test_spectra_of_other_lengths_are_refused(spectra: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one length"):
        rank_of_mean_spectrum(spectra)
