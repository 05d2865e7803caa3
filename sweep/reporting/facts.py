"""What a report says in words: the question, what was compared, warnings, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sweep.analysis.convergence import MOVES, movement
from sweep.analysis.floor import floor_of
from sweep.planning.recorded_plan import PlannedStart
from sweep.reporting.draws import embeddings_and_draws
from sweep.reporting.groups import (
    RECIPE,
    SEED,
    SETTING,
    Compared,
    Setting,
    differences,
    finished_of,
    natural,
    text_of,
)
from sweep.reporting.material import Material
from sweep.reporting.stat import Frame

WORDS = {"student": "capacity", "arm": "augmentation", "objective": "the objective"}
WORDS |= {"target": "the target", "epochs": "training time", "temperature": "temperature"}
# Test arms that are applied at each network's own input size.
AT_INPUT = tuple(f"test/{n}/" for n in ("noise/paper", "band_noise", "low_pass", "high_pass"))
UNSTEADY = 1e-3  # relative spread of a teacher's value between trials that is worth a note
FEW_SEEDS = 5
FEW_STEPS = 1000  # the paper's trials have 3,905
UNSEEN = (
    "Students usually need more to converge, and curves that would show it were not observed "
    "closely enough in all of them (`curve_every`)."
)
TIMES = ("started_ms", "ended_ms")


def question(compared: Compared) -> str:
    """What the study asks, from what it varies."""
    names = [WORDS.get(name, name) for name in compared.axes]
    if not names:
        return "What survives distillation?"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"Does {listed} change what survives distillation?"


def lead(compared: Compared) -> str:
    """One paragraph: who was distilled from whom, on what, with how many seeds."""
    groups, settings = compared.groups, compared.settings
    trials = sum(group.n for group in groups)
    seeds = sorted({group.n for group in groups})
    sizes = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    each = f"{sizes} seed{'s' if seeds[-1] > 1 else ''} each"
    kinds = f"{len(groups)} group{'s' if len(groups) > 1 else ''}"
    parts = []
    for setting in settings:
        f = setting.fields
        size = f"N = {text_of(f.get('data.train'))} training and {text_of(f.get('data.test'))} test"
        parts.append(
            f"teacher {f.get('teacher')} on {f.get('dataset')} ({size} images, "
            f"{f.get('input')} resolution, chance {100 * setting.chance:.3g} %)"
        )
    return (
        f"{trials} student{'s' if trials > 1 else ''} in {kinds} of {each}, distilled from "
        f"{'; '.join(parts)}."
    )


def banners(material: Material) -> list[tuple[str, str]]:
    """(strong words, the rest) of what a reader must know before any number."""
    compared = material.compared
    found = random_weights(compared)
    # Controls that are not trained (epochs 0) are not meant.
    steps = [int(count) for group in compared.groups for count in group.trials["steps"]]
    if few := [count for count in steps if 0 < count < FEW_STEPS]:
        least, most = f"{min(few):,}", f"{max(few):,}"
        reach = least if least == most else f"{least} to {most}"
        whose = "All trials" if len(few) == len(steps) else f"{len(few)} of {len(steps)} trials"
        found.append((
            f"Few training steps: {reach}.",
            f"{whose} ended after fewer than {FEW_STEPS:,} optimiser steps. {_settled(material)}",
        ))  # fmt: skip
    return found


def _settled(material: Material) -> str:
    """Whether the ranks of the trained groups had settled when training ended, in one sentence."""
    trained = [group for group in material.compared.groups if max(group.trials["steps"]) > 0]
    curves = material.curves
    if "trial" not in curves:
        return UNSEEN
    members = [curves["trial"].isin(set(group.trials["trial"])) for group in trained]
    moves = [movement(curves[own]) for own in members]
    known = [moved for moved in moves if moved is not None]
    if len(known) < len(moves):
        return UNSEEN
    worst = f"at most {max(known):.1%} in the last fifth of training"
    if max(known) < MOVES:
        return f"Their ranks had settled (they moved by {worst}); other measures may not have."
    return f"Not all ranks had settled (they moved by {worst}): longer training may change them."


def random_weights(compared: Compared) -> list[tuple[str, str]]:
    """The banner that names teachers of random weights; none where every teacher was trained."""
    random = [
        str(setting.fields["teacher"])
        for setting in compared.settings
        if setting.fields.get("teacher.random_weights") is True
    ]
    names = ", ".join(dict.fromkeys(random))
    words = "These numbers show that the mechanics work; they say nothing of any trained teacher."
    return [(f"RANDOM WEIGHTS: {names}.", words)] if random else []


def notes(compared: Compared, trials: Frame) -> list[str]:
    """Caveats that apply to the numbers of this study."""
    groups, said = compared.groups, []
    least = min(group.n for group in groups)
    if least < FEW_SEEDS:
        n = f"{least} seed{'s' if least > 1 else ''}"
        said.append(
            f"With {n} a group, few differences can be decided: a two-sided sign-flip test "
            f"cannot give a p below {floor_of(least):.3g}, whatever the numbers."
        )
    if max(group.n for group in groups) > 1:
        said.append(
            "Every measure is taken per seed, then averaged. ± is the standard deviation over "
            "seeds (ddof = 1); intervals are 95 % t intervals of the mean, t(0.975, n − 1) · sd / "
            "√n, clipped to 0 and 100 % for shares."
        )
    said.append(
        "Effective rank depends on N, the number of test images; ranks of different N, data sets "
        "or input resolutions never share a panel or a group."
    )
    if len({tuple(sorted(map(str, group.trials[SEED]))) for group in groups}) > 1:
        said.append("Groups do not all have the same seeds: their means are not paired.")
    if differing := differences(finished_of(trials)):
        said.append(
            f"These runs differ in {', '.join(differing)}, so each has panels and rows of its "
            "own: compare within a run, not across."
        )
    for setting in compared.settings:
        said += _notes(setting)
    return said


def _notes(setting: Setting) -> Iterable[str]:
    where = f" ({setting.name})" if setting.name else ""
    if setting.fields.get("input") == "native" and any(
        n.startswith(AT_INPUT) for n in setting.metrics
    ):
        yield (
            "Noise after normalisation (`paper`), bands, filters and waves act at each network’s "
            "own input size. Where students see native images and the teacher larger ones, its "
            "values are not comparable with theirs: compare students with each other."
        )
    if not setting.teacher:
        yield f"No trial holds values of the teacher{where}."
    loose = [m for m, s in setting.teacher.items() if (s.sd or 0) > UNSTEADY * abs(s.mean)]
    if loose:
        shown = ", ".join(loose[:6]) + (f" and {len(loose) - 6} more" if len(loose) > 6 else "")
        yield f"Teacher values differ between trials{where}; its rows show means: {shown}."


def meta(trials: Frame, planned: Sequence[PlannedStart]) -> dict[str, str]:
    """The short line under the title: trials, date, duration."""
    done = int((trials["status"] == "finished").sum())
    found = {"trials": f"{done} finished"}
    if missing := len(trials) - done:
        found["trials"] += f", {missing} not"
    if set(TIMES) <= set(trials.columns):
        starts, ends = trials["started_ms"].dropna(), trials["ended_ms"].dropna()
        if len(starts) and len(ends):
            first = datetime.fromtimestamp(int(starts.min()) / 1000, UTC)
            found["date"] = first.strftime("%Y-%m-%d")
            found["duration"] = clock((int(ends.max()) - int(starts.min())) / 1000)
    names = sorted({str(value) for value in trials.get("device", []) if isinstance(value, str)})
    if names:
        found["device"] = ", ".join(names)
    commits = dict.fromkeys(start.commit[:10] for start in planned if start.commit)
    if commits:
        found["commit"] = ", ".join(commits)
    return found


def provenance(trials: Frame, planned: Sequence[PlannedStart]) -> dict[str, str]:
    """Where the numbers come from: data, teacher, versions, precision, draws."""
    shown = {
        "run": "runs", "dataset": "data set", "teacher": "teacher",
        "weights_sha256": "teacher weights, sha256", "source": "images, draws and weights, sha256",
        "precision": "precision", "engine": "engine", "torch": "torch", "numpy": "NumPy",
        "scikit-learn": "scikit-learn", "python": "Python", "device": "device",
        "instruction_set": "instruction set",
    }  # fmt: skip
    found = {}
    for name, words in shown.items():
        if name in trials:
            values = sorted({text_of(value) for value in trials[name]} - {"–"}, key=natural)
            if values:
                more = f" and {len(values) - 6} more" if len(values) > 6 else ""
                found[words] = " · ".join(values[:6]) + more
    for words, values in (
        ("commit", [start.commit for start in planned]),
        ("version of distilsweep", [start.version for start in planned]),
    ):
        if known := dict.fromkeys(value for value in values if value):
            found[words] = " · ".join(known)
    return found | dict(embeddings_and_draws(trials))


def fixed(trials: Frame, names: Iterable[str]) -> dict[str, str]:
    """Settings that are the same in all finished trials, the recipe first."""
    finished = finished_of(trials)
    ordered = [*SETTING, *RECIPE, *sorted(set(names) - {*SETTING, *RECIPE})]
    found = {}
    for name in ordered:
        if name in finished and name != SEED:
            values = {text_of(value) for value in finished[name]}
            if len(values) == 1:
                found[name] = values.pop()
    return found


def clock(seconds: float) -> str:
    """`1 h 05 min`, `7 min 03 s`, `42 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"
