"""What is wrong with claims, and what they leave open, before any trial of theirs has run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from shards.arms import make_arm
from shards.support.registry import closest
from sweep.analysis.claims import Claim, Claims, Interaction, Where, unknown_fields
from sweep.analysis.floor import floor_of, floor_seeds
from sweep.analysis.values import Row, label_of, same, varying
from sweep.planning.kinds import alike
from trainers.canonical import make_config, trial_fields
from trainers.config.schema import PINS, TrialConfig
from trainers.probes.names import metric_of, metrics

PREFIXES = ("test/", "teacher/")  # of the metrics that a trial ends with
UNDER_ARMS = ("ARM", "BAND", "ANY")  # words of the glossary that stand for a corruption
# Fields that say what is measured: they change no value that two trials both have.
MEASURED = ("curve_every", "curve_samples", "probes", "test_arms", "adapt_arms", "probe_at")


def wrong_claim(claims: Claims, trials: Sequence[TrialConfig]) -> str | None:
    """The first claim that no outcome of these trials could decide, and why, as one clause.

    Wrong are an unknown field, a metric that there is not or that is no number, and a group that
    mixes trials or shares them with another group. Trials or metrics that these trials lack are
    not: `--set` and `--only` may leave them out on purpose, see `open_questions`.
    """
    if wrong := unknown_fields(claims, {*trial_fields(), "seed"}):
        return wrong
    rows = [config.model_dump(mode="json") for config in trials]
    for claim in claims.claims:
        groups = [_matching(where, rows) for where in claim.groups()]
        for clause in (_wrong_metric(claim), _wrong_groups(claim, rows, groups)):
            if clause:
                return f"{claim.name}: {clause}"
    return None


def open_questions(claims: Claims, trials: Sequence[TrialConfig], seeds: int) -> list[str]:
    """One line each for what these trials cannot decide, although nothing is wrong with a claim.

    seeds: how many there are of each trial.
    """
    rows = [config.model_dump(mode="json") for config in trials]
    notes: list[str] = []
    for claim in claims.claims:
        groups = {_named(where): _matching(where, rows) for where in claim.groups()}
        if empty := [name for name, group in groups.items() if not group]:
            notes.append(f"`{claim.name}` is untestable: no trial has {empty[0]}")
        else:
            own = sorted({i for group in groups.values() for i in group})
            lacking = (_not_measured(name, trials[i]) for name in _metrics_of(claim) for i in own)
            if clause := next(filter(None, lacking), None):
                notes.append(f"`{claim.name}` is untestable: {clause}")
            if also := _also_differ(claim, [trials[group[0]] for group in groups.values()]):
                notes.append(
                    f"groups of `{claim.name}` also differ in {', '.join(also)}, whose effect "
                    "counts as theirs; name it in the groups if that is meant"
                )
        if claim.converged and not any(config.curve_every for config in trials):
            notes.append(f"`{claim.name}` needs a settled rank, which `curve_every` observes")
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


def without_repeats(claims: Claims, trials: Sequence[TrialConfig]) -> Sequence[TrialConfig]:
    """One trial of all that differ in their seed alone; every trial where a claim names seeds.

    These are enough for both checks: with many seeds, most of the time would go into repetition.
    """
    named = any("seed" in where for claim in claims.claims for where in claim.groups())
    return trials if named else list(alike(trials))


def _named(where: Where) -> str:
    return ", ".join(f"{name} = {value}" for name, value in where.items())


def _matching(where: Where, rows: Sequence[Row]) -> list[int]:
    """Positions of the trials that have these values."""
    return [i for i, row in enumerate(rows) if all(same(row.get(n), v) for n, v in where.items())]


# ---- metrics ----


def _metrics_of(claim: Claim) -> list[str]:
    minus = claim.minus.get("metric") if isinstance(claim, Interaction) else None
    return [claim.metric, *([str(minus)] if minus is not None else [])]


def _wrong_metric(claim: Claim) -> str | None:
    for name in _metrics_of(claim):
        known = metric_of(name) if name.startswith(PREFIXES) else None
        if known is None:
            patterns = [f"test/{metric.pattern}" for metric in metrics()]
            return f"unknown metric `{name}`; {closest(name, patterns)}; see docs/metrics.md"
        if known.meaning.startswith("array"):
            return f"metric `{name}` is a list of a trial; expected one number"
    return None


def _not_measured(name: str, config: TrialConfig) -> str | None:
    """Why a trial will not have a metric of the glossary; None where it may have it."""
    known = metric_of(name)
    if known is None or name.startswith("teacher/curve/"):
        return None
    if known.probe not in config.probes:
        return f"`probes` has no `{known.probe}`, which measures {name}"
    if known.pattern.split("/")[0] not in UNDER_ARMS:
        return None
    bare = name.split("/", 1)[1]
    arms = sorted({make_arm(spec).metric for spec in (*config.test_arms, *config.adapt_arms)})
    if any(bare.startswith(f"{arm}/") for arm in arms):
        return None
    shown = ", ".join(arms[:4]) + (", ..." if len(arms) > 4 else "")
    return f"no corruption of {name} in `test_arms` ({shown or 'none'})"


# ---- groups ----


def _also_differ(claim: Claim, trials: Sequence[TrialConfig]) -> list[str]:
    """`lr (0.001, 0.01)`: what groups differ in although no group of the claim names it.

    trials: one of each group, which stands for all of it: they differ in their seed alone. A field
    that has no effect in one of two trials is no difference between them.
    """
    named = {name for where in claim.groups() for name in where}
    apart = {"seed", *PINS, *MEASURED, *named}
    rows = [config.model_dump(mode="json") for config in trials]
    found: dict[str, dict[str, None]] = {}
    for (one, a), (other, b) in itertools.combinations(zip(trials, rows, strict=True), 2):
        for name in (n for n in a if n in b and a[n] != b[n] and n not in apart):
            if _acts(name, b[name], one) and _acts(name, a[name], other):
                found.setdefault(name, {}).update({str(a[name]): None, str(b[name]): None})
    return [f"{name} ({', '.join(values)})" for name, values in found.items()]


def _acts(name: str, value: Any, config: TrialConfig) -> bool:
    """Whether the trial would be another one with this value of a field."""
    try:
        return make_config(config.model_dump(mode="json") | {name: value}) != config
    except ValueError:  # it contradicts others, which have an effect
        return True


def _wrong_groups(claim: Claim, rows: Sequence[Row], groups: list[list[int]]) -> str | None:
    wheres = claim.groups()
    for where, group in zip(wheres, groups, strict=True):
        if names := varying([rows[i] for i in group]):
            return f"trials of {label_of(where)} differ in {', '.join(names)}; add it to `where`"
    for i, group in enumerate(groups):
        for other, where in zip(groups[:i], wheres[:i], strict=True):
            if set(group) & set(other):
                return f"{label_of(where)} and {label_of(wheres[i])} are the same trials"
    return None
