"""Figures of corrupted embeddings: of one draw, and over draws."""

import numpy as np
import pytest

from shards.measures.corruption import Draw, figures_of, measure_draw


def test_a_draw_is_measured_against_the_clean_embeddings() -> None:
    eye_ND = np.eye(4, dtype=np.float32)
    assert measure_draw(eye_ND, eye_ND, lambda rows: 0.5) == Draw(0.5, 1.0, pytest.approx(3))
    assert measure_draw(eye_ND, np.roll(eye_ND, 1, axis=0), lambda rows: 0.5).cosine == 0


def test_figures_are_means_over_draws() -> None:
    draws = [Draw(0.5, 0.9, 3.0), Draw(0.7, 0.7, 5.0)]
    assert figures_of(draws) == pytest.approx(
        {"accuracy": 0.6, "accuracy_sd": np.sqrt(0.02), "cosine": 0.8, "rank": 4.0}
    )
    assert figures_of(draws[:1]) == {"accuracy": 0.5, "cosine": 0.9, "rank": 3.0}
