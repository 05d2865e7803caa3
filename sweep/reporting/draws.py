"""What the report says of the teacher's embeddings and of the random draws of a study."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.reporting.groups import natural, text_of
from sweep.reporting.stat import Frame

SHARED = (
    "augmented views and test noise are the same for every trial seed, so a spread over seeds does "
    "not include them"
)
OWN = (
    "data_seed per_seed: each trial seed has its own augmented views and test noise, so a spread "
    "over seeds includes them"
)


def embeddings_and_draws(trials: Frame) -> Iterator[tuple[str, str]]:
    """(heading, text): how the teacher's embeddings were made, and what a spread includes."""
    parts = ("teacher.precision", "teacher.device", "teacher.stored")
    if all(name in trials for name in parts):
        known = trials[list(parts)].dropna().drop_duplicates()
        made = [
            f"computed in {p} on {d}, stored as {s}" for p, d, s in known.itertuples(index=False)
        ]
        if made:
            yield "teacher's embeddings", "; ".join(made)
    if "data_seed" in trials:
        seeds = sorted({text_of(value) for value in trials["data_seed"]} - {"–"}, key=natural)
        fixed = [seed for seed in seeds if seed != "per_seed"]
        said = [f"data_seed {', '.join(fixed)}: {SHARED}"] if fixed else []
        said += [OWN] if len(fixed) < len(seeds) else []
        if said:
            yield "draws", "; ".join(said)
