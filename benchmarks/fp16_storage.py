"""How much storing embeddings as float16 unit vectors changes each rank, in per cent.

    PYTHONPATH=. python benchmarks/fp16_storage.py

Rows: the embedded teacher on the test and on the train images of digits, and vectors of 512
dimensions with a power-law spectrum (variance of direction k proportional to k^-a) around a mean
with which they have a mean cosine of about 0.7, as embeddings of CLIP have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from shards.datasets import open_dataset
from shards.measures.infonce import full_infonce
from shards.measures.spectrum import RANKS, centred_eigenvalues, dims_for, rankme
from shards.teachers import open_teacher

Rows = NDArray[np.float32]


def unit(x_ND: NDArray[np.floating]) -> Rows:
    wide_ND = x_ND.astype(np.float64)
    return (wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)).astype(np.float32)


def measures(x_ND: Rows, clean_ND: Rows) -> dict[str, float]:
    """The ranks of x, and its InfoNCE against the vectors that were not rounded."""
    values_D = centred_eigenvalues(x_ND)
    found = {name: measure(values_D) for name, measure in RANKS.items()}
    found |= {"rankme": rankme(x_ND), "dims/99": float(dims_for(values_D, 0.99))}
    return found | {"infonce/full": full_infonce(x_ND[:2000], clean_ND[:2000]).loss}


def digits() -> Iterator[tuple[str, Rows]]:
    data, teacher = open_dataset("digits"), open_teacher("embedded")
    for split in ("test", "train"):
        images = torch.from_numpy(data.read(split, 0, data.count(split)).images_NHWC)
        parts = images.permute(0, 3, 1, 2).contiguous().split(128)
        rows = torch.cat([teacher.embed(teacher.preprocess(part)) for part in parts])
        yield f"embedded teacher, digits {split}", unit(rows.numpy())


def power_laws(count: int = 10_000, width: int = 512) -> Iterator[tuple[str, Rows]]:
    for exponent in (0.5, 1.0, 1.5, 2.0):
        rng = np.random.default_rng(0)
        variance_D = np.arange(1, width + 1.0) ** -exponent
        x_ND = rng.standard_normal((count, width)) * np.sqrt(variance_D)
        mean_D = rng.standard_normal(width)
        mean_D *= np.sqrt(0.7 / 0.3 * variance_D.sum()) / np.linalg.norm(mean_D)
        yield f"power law k^-{exponent:g}", unit(x_ND + mean_D)


def main() -> None:
    torch.set_num_threads(1)
    for source in (digits(), power_laws()):
        for name, x_ND in source:
            before = measures(x_ND, x_ND)
            rounded_ND = unit(x_ND.astype(np.float16))
            after = measures(rounded_ND, x_ND)
            error = float(np.square(rounded_ND - x_ND, dtype=np.float64).sum(axis=1).mean())
            shown = (f"{m} {v:.5g} {100 * (after[m] / v - 1):+.3f} %" for m, v in before.items())
            print(f"{name} (N = {len(x_ND):,}): squared error {error:.1e}; {', '.join(shown)}")


if __name__ == "__main__":
    main()
