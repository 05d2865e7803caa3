"""The figure that arXiv 2603.06698 publishes as effective rank: that of the mean spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shards.measures.spectrum import paper_rank


def rank_of_mean_spectrum(spectra: Sequence[Sequence[float]]) -> float:
    """exp H(mean over seeds of p), with p the shares of variance (`test/spectrum`) of each seed.

    With 1e-10 inside the logarithm, as in the paper. Unit: dimensions. It is one number without a
    deviation, and no smaller than the geometric mean of the seeds' ranks, because entropy is
    concave: `rank/effective` for each seed, then averaged, is what can be tested.
    Raises: ValueError for no spectrum, or spectra of different lengths.
    """
    lengths = {len(spectrum) for spectrum in spectra}
    if len(lengths) != 1:
        raise ValueError(f"spectra of one length are needed; found lengths {sorted(lengths)}")
    return paper_rank(np.mean(np.asarray(spectra, dtype=np.float64), axis=0))
