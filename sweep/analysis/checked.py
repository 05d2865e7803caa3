"""What is wrong with claims, and what they leave open, before any trial of theirs has run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shards.arms import make_arm
from shards.support.registry import closest
from sweep.analysis.claims import Claim, Claims, Interaction, Where, unknown_fields
from sweep.analysis.floor import floor_of, floor_seeds
from sweep.analysis.values import Row, label_of, same, varying
from trainers.canonical import trial_fields
from trainers.config.schema import TrialConfig
from trainers.probes.names import metric_of, metrics

PREFIXES = ("test/", "teacher/")  # of the metrics that a trial ends with
UNDER_ARMS = ("ARM", "BAND", "ANY")  # words of the glossary that stand for a corruption


def wrong_claim(claims: Claims, trials: Sequence[TrialConfig]) -> str | None:
    """The first claim that no outcome of these trials could decide, and why, as one clause.

    Wrong are an unknown field, a metric that there is not or that the claim's trials do not
    measure, and a group that mixes trials or shares them with another group. A group without a
    trial is not: `--set` and `--only` may leave it out on purpose.
    """
    if wrong := unknown_fields(claims, {*trial_fields(), "seed"}):
        return wrong
    rows = [config.model_dump(mode="json") for config in trials]
    for claim in claims.claims:
        groups = [_matching(where, rows) for where in claim.groups()]
        for clause in (_wrong_metric(claim, trials, groups), _wrong_groups(claim, rows, groups)):
            if clause:
                return f"{claim.name}: {clause}"
    return None


def open_questions(claims: Claims, trials: Sequence[TrialConfig]) -> list[str]:
    """One line each for what these trials cannot decide, although nothing is wrong with a claim."""
    rows = [config.model_dump(mode="json") for config in trials]
    notes: list[str] = []
    for claim in claims.claims:
        for where in claim.groups():
            if not _matching(where, rows):
                fields = ", ".join(f"{name} = {value}" for name, value in where.items())
                notes.append(f"`{claim.name}` is untestable: no trial has {fields}")
                break
        if claim.converged and not any(config.curve_every for config in trials):
            notes.append(f"`{claim.name}` needs a settled rank, which `curve_every` observes")
    seeds = len({config.seed for config in trials})
    planned = " and ".join(map(str, claims.looks))
    if claims.looks and seeds not in claims.looks:
        notes.append(f"looks are planned at {planned} seeds: verdicts of {seeds} are exploratory")
    looks = max(1, len(claims.looks))
    alpha = claims.alpha / looks / len(claims.claims)
    if floor_of(seeds) > alpha:
        each = f" in each of {looks} looks" if looks > 1 else ""
        notes.append(
            f"{seeds} seeds cannot decide a family of {len(claims.claims)} at {claims.alpha:g}"
            f"{each}; {floor_seeds(alpha)} can: --seeds {floor_seeds(alpha)}"
        )
    return notes


def _matching(where: Where, rows: Sequence[Row]) -> list[int]:
    """Positions of the trials that have these values."""
    return [i for i, row in enumerate(rows) if all(same(row.get(n), v) for n, v in where.items())]


# ---- metrics ----


def _wrong_metric(
    claim: Claim, trials: Sequence[TrialConfig], groups: Iterable[Sequence[int]]
) -> str | None:
    names = [claim.metric]
    if isinstance(claim, Interaction) and "metric" in claim.minus:
        names.append(str(claim.minus["metric"]))
    own = [trials[i] for i in sorted({i for group in groups for i in group})]
    for name in names:
        known = metric_of(name) if name.startswith(PREFIXES) else None
        if known is None:
            patterns = [f"test/{metric.pattern}" for metric in metrics()]
            return f"unknown metric `{name}`; {closest(name, patterns)}; see docs/metrics.md"
        if known.meaning.startswith("array"):
            return f"metric `{name}` is a list of a trial; expected one number"
        for config in own:
            if clause := _not_measured(name, known.probe, known.pattern, config):
                return f"metric `{name}`: {clause}"
    return None


def _not_measured(name: str, probe: str, pattern: str, config: TrialConfig) -> str | None:
    """Why a trial will not have a metric of the glossary; None where it may have it."""
    if name.startswith("teacher/curve/"):
        return None if config.curve_every else "no curves are observed; set curve_every"
    if probe not in config.probes:
        return f"`probes` has no `{probe}`, which measures it"
    if pattern.split("/", maxsplit=1)[0] not in UNDER_ARMS:
        return None
    bare = name.split("/", 1)[1]
    arms = [make_arm(spec).metric for spec in (*config.test_arms, *config.adapt_arms)]
    if any(bare.startswith(f"{arm}/") for arm in arms):
        return None
    return f"no such corruption in `test_arms`, which measure {', '.join(sorted(set(arms)))}"


# ---- groups ----


def _wrong_groups(claim: Claim, rows: Sequence[Row], groups: list[list[int]]) -> str | None:
    wheres = claim.groups()
    for where, group in zip(wheres, groups, strict=True):
        if len({rows[i]["seed"] for i in group}) < len(group):
            names = ", ".join(varying([rows[i] for i in group]))
            return f"trials of {label_of(where)} differ in {names}; add it to `where`"
    for i, group in enumerate(groups):
        for other, where in zip(groups[:i], wheres[:i], strict=True):
            if set(group) & set(other):
                return f"{label_of(where)} and {label_of(wheres[i])} are the same trials"
    return None
