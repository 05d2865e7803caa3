"""The verdicts of a run: its declared claims, held against its trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.analysis import words
from sweep.analysis.claims import read_claims
from sweep.analysis.declared import Family, declared, sha256_of
from sweep.analysis.families import share_of
from sweep.analysis.frame import DIVERGED, FINISHED, STOPPED, Study, load
from sweep.analysis.verdicts import Verdict, verdicts_of_trials
from sweep.journal.mlflow_uri import is_tracking_uri

# A trial that failed is tried again by the next `sweep.run`, so it has not ended.
ENDED = (FINISHED, DIVERGED, STOPPED)


@dataclass(frozen=True)
class Judged:
    """The verdicts on the claims of one grid, corrected as one family.

    alpha: of the family at this look. sha256: of the claims file that was frozen. missing: how many
    of the grid's trials have not ended: never started, interrupted, or failed.
    """

    grid: str
    alpha: float
    sha256: str
    verdicts: tuple[Verdict, ...]
    missing: int

    @property
    def open_claims(self) -> list[str]:
        """Names of the claims that are not confirmed, see `Verdict.confirmed`, and why."""
        return [
            f"{one.claim.name} ({', '.join([words.title(one), *words.marks(one)])})"
            for one in self.verdicts
            if not one.confirmed
        ]


def judge(location: str | Path, study: Study | None = None, claims: str = "") -> list[Judged]:
    """The verdicts of a run folder, one family a grid; none where it declares no claims.

    study: its trials, where they are loaded already. claims: path of a claims file to judge in
    place of the declared ones; it is post hoc unless it is one of those, to the letter.
    Raises: ValueError where the run or a claims file cannot be read.
    """
    # A server of MLflow has results, but not what was declared before them.
    families = [] if is_tracking_uri(str(location)) else declared(str(location))
    trials = frozenset(trial for family in families for trial in family.trials)
    if claims:
        families = [_given(claims, families)]
    if not families:
        return []
    study = study or load(location)
    return [_judge(family, study, trials) for family in families]


def judge_all(
    locations: Sequence[str | Path], claims: str = "", study: Study | None = None
) -> list[Judged]:
    """The verdicts of several runs, each judged by itself: on its own trials and probe versions.

    study: their trials together, where they are loaded already; those of a single run are not read
    again. Raises: as `judge`.
    """
    own = study if len(locations) == 1 else None
    return [family for location in locations for family in judge(location, own, claims)]


def _given(file: str, families: Iterable[Family]) -> Family:
    """A file's claims as a family: the declared one if the file is the same, else all post hoc.

    Another file is another family, whatever claims it shares with the one that was declared: its
    alpha and its number of claims were chosen when results could be seen.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}; expected a claims file") from None
    read, sha256 = read_claims(text, file), sha256_of(text)
    for family in families:
        if family.sha256 == sha256:
            return family
    late = frozenset(claim.sha256 for claim in read.claims)
    return Family(Path(file).name, read, late, frozenset(), (), "")


def _judge(family: Family, study: Study, declared: frozenset[str]) -> Judged:
    """declared: identities of all trials that the run's grids have."""
    trials: Any = study.trials
    if family.trials:
        trials = trials[trials["trial"].isin(family.trials)].reset_index(drop=True)
    ended = set(trials.loc[trials["status"].isin(ENDED), "trial"])
    missing = len((family.trials or declared | set(trials["trial"])) - ended)
    verdicts = verdicts_of_trials(
        family.claims,
        trials,
        study.curves,
        family.post_hoc,
        family.looks,
        study.arrays,
        missing,
        family.remarks,
    )
    share = share_of(family.claims.alpha, family.claims.looks, family.looks)
    return Judged(family.grid, share.alpha, family.sha256, tuple(verdicts), missing)


def as_rows(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """A plain object a claim, for JSON: what was claimed, its verdict and the numbers behind it."""
    rows: list[dict[str, Any]] = []
    for family in judged:
        for verdict in family.verdicts:
            found, corrected = verdict.evidence, verdict.corrected
            contrast = found.contrast if found else None
            row: dict[str, Any] = {
                "kind": "verdict",
                "grid": family.grid,
                "claim": verdict.claim.model_dump(mode="json"),
                "verdict": words.title(verdict),
                "post_hoc": verdict.post_hoc,
                "exploratory": verdict.exploratory,
                "missing": verdict.missing,
                "reason": verdict.reason,
                "notes": list(verdict.notes),
                "seeds_needed": verdict.seeds_needed,
            }
            if found and contrast and corrected:
                row |= {
                    "quantity": found.quantity,
                    "n": found.n,
                    "test": contrast.test,
                    "estimate": contrast.estimate,
                    "interval": list(contrast.interval()),
                    "p": _finite(found.p),
                    "p_holm": corrected.p,
                    "alpha": corrected.alpha,
                    "p_sign_flip": found.flips,
                    "detectable": verdict.detectable,
                    "interval_images": list(found.images) if found.images else None,
                    "interval_images_and_seeds": list(found.joint) if found.joint else None,
                }
            rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
