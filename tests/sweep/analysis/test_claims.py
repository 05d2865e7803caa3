"""Claims files: what is read, what is refused and how, and which trials a claim is about."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from sweep.analysis.claims import Claims, Equivalence, read_claims, unknown_fields
from sweep.analysis.contrasts import sign_flip_p
from sweep.analysis.declared import check_claims, claims_text
from sweep.analysis.values import TrialValues, UntestableError
from sweep.analysis.verdicts import Verdict, verdicts_of_trials
from sweep.grids import named_claims, named_grids
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid, read_grid

M = "test/linear/paper/accuracy"
SIZES = "first: {student: width:0.25}, second: {student: width:1}, where: {arm: clean}"
GRID = """
fixed: {dataset: digits, teacher: embedded, epochs: 8, curve_every: 1 epochs}
axes: {student: [width:0.25, width:1], arm: [clean, noise:0.1]}
seeds: 7
"""
TWO = f"metric: {M}, first: {{student: width:1}}, second: {{student: width:4}}"


def claim(text: str) -> Claims:
    return read_claims(f"claims:\n  - {{name: one, {text}}}", "mine.claims.yaml")


def frame(n: int = 8, **columns: Any) -> pd.DataFrame:
    """n seeds of two students; values of width:1 are higher by 0.1, with a spread of 0.01."""
    rows = [
        {"trial": f"{student}{seed}", "status": "finished", "student": student, "arm": "clean"}
        | {"seed": seed, "student.parameters": size, M: 0.5 + base + 0.01 * (seed * 7 % 8)}
        | {"epochs": 5, "objective": "cosine"}
        for student, size, base in (("width:1", 8e5, 0.1), ("width:4", 2.7e6, 0.0))
        for seed in range(n)
    ]
    return pd.DataFrame([row | columns for row in rows])


def verdict(text: str, trials: pd.DataFrame, curves: pd.DataFrame | None = None) -> Verdict:
    return verdicts_of_trials(claim(text), trials, curves)[0]


# ---- reading ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"kind: superority, {TWO}", "kind: `superority`; did you mean `superiority`?"),
        (f"kind: superiority, {TWO}, marginn: 1", "unknown key `marginn`; did you mean `margin`?"),
        (f"kind: equivalence, {TWO}", "margin: missing"),
        (f"kind: equivalence, {TWO}, margin: -1", "margin: Input should be greater than 0"),
        (f"kind: equivalence, metric: {M}, margin: 1", "expected `first` and `second`, or `along`"),
        (f"kind: ratio, {TWO}", "bound: missing"),
        (f"kind: superiority, metric: {M}, first: {{student: width:1}}", "second: missing"),
        (
            f"kind: equivalence, metric: {M}, margin: 1, along: {{student: [width:1]}}",
            "at least two values",
        ),
        (
            f"kind: trend, metric: {M}, direction: up, along: {{student: [width:1, width:4]}}",
            "direction: Input should be 'rises' or 'falls'",
        ),
        (
            f"kind: trend, metric: {M}, direction: rises, along: {{student: [a, b, a]}}",
            "expected at least two values, each once",
        ),
        (
            f"kind: difference, metric: {M}, first: {{arm: clean}}, second: {{arm: clean}}",
            "first and second are the same",
        ),
        (
            f"kind: ratio, bound: 2, metric: {M}, where: {{arm: clean}}, "
            "first: {student: width:1}, second: {student: width:1, arm: clean}",
            "first and second are the same",
        ),
        (
            f"kind: interaction, {TWO}, minus: {{metric: {M}, arm: clean}}",
            "expected {metric: NAME} or fields",
        ),
    ],
)
def test_a_bad_claim_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.claims\.yaml: claim 1") as caught:
        claim(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_and_two_claims_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="claims: expected a list of at least one"):
        read_claims("alpha: 0.05", "x")
    one = f"  - {{name: one, kind: difference, {TWO}}}\n"
    with pytest.raises(ValueError, match="two claims have the name `one`"):
        read_claims("claims:\n" + one + one, "x")
    with pytest.raises(ValueError, match="alpha"):
        read_claims("alpha: 2\nclaims:\n" + one, "x")
    with pytest.raises(ValueError, match=r"looks: \[20, 10\]; expected ascending"):
        read_claims("looks: [20, 10]\nclaims:\n" + one, "x")


def test_a_field_that_no_trial_has_is_named() -> None:
    found = claim(f"kind: difference, {TWO}, where: {{studnt: 1}}")
    message = unknown_fields(found, {"student", "arm"}) or ""
    assert message.startswith("one: unknown field `studnt`; did you mean `student`?")


@pytest.mark.parametrize("name", [n for n in named_grids() if named_claims(n)])
def test_claims_that_come_with_a_grid_are_about_its_trials(name: str) -> None:
    found = claims_text(name)
    assert found is not None
    notes = check_claims(*found, expand(load_grid(name)))
    assert [note for note in notes if "untestable" in note] == []


def test_too_few_seeds_are_said_before_the_sweep(tmp_path) -> None:
    text = f"claims:\n  - {{name: one, kind: difference, {TWO}}}\n"
    notes = check_claims(text, "x", expand(read_grid(GRID, "x", "x"))[:3])
    assert notes[-1] == "3 seeds cannot decide a family of 1 at 0.05; 6 can: --seeds 6"
    (tmp_path / "mine.claims.yaml").write_text(text)
    assert claims_text(str(tmp_path / "mine.yaml")) == (text, str(tmp_path / "mine.claims.yaml"))
    assert claims_text(str(tmp_path / "other.yaml")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"kind: difference, {SIZES}, metric: test/rank/efective",
            "one: unknown metric `test/rank/efective`; did you mean `test/rank/effective`?",
        ),
        (f"kind: difference, {SIZES}, metric: rank/effective", "unknown metric `rank/effective`"),
        (f"kind: difference, {SIZES}, metric: test/spectrum", "is a list of a trial"),
        (
            f"kind: interaction, {SIZES}, metric: {M}, minus: {{metric: test/zero}}",
            "unknown metric `test/zero`",
        ),
        (
            f"kind: difference, metric: {M}, first: {{arm: clean}}, second: {{arm: noise:0.1}}",
            "one: trials of clean differ in student (width:0.25, width:1); add it to `where`",
        ),
        (
            f"kind: difference, metric: {M}, first: {{student: width:1, arm: clean}}, "
            "second: {student: width:1, arm: clean, epochs: 8}",
            "are the same trials",
        ),
    ],
)
def test_what_no_outcome_could_decide_is_refused_before_the_sweep(text: str, message: str) -> None:
    trials = expand(read_grid(GRID, "x", "x"))
    with pytest.raises(ValueError, match=r"^mine\.claims\.yaml: one: ") as caught:
        check_claims(f"claims:\n  - {{name: one, {text}}}", "mine.claims.yaml", trials)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "note"),
    [
        (
            "test/noise/pixel/0.3/accuracy",
            "no corruption of test/noise/pixel/0.3/accuracy in `test_arms` (noise/pixel/0.05, "
            "noise/pixel/0.1, noise/pixel/0.2)",
        ),
        ("test/rank/effective", "`probes` has no `spectrum`, which measures test/rank/effective"),
    ],
)
def test_what_the_trials_do_not_measure_is_said_before_the_sweep(metric: str, note: str) -> None:
    """`--set` may have left it out on purpose, so that it is not refused."""
    trials = expand(read_grid(GRID, "x", "x"))
    text = f"claims:\n  - {{name: one, kind: difference, {SIZES}, metric: {metric}}}\n"
    if "probes" in note:
        trials = [config.model_copy(update={"probes": ("linear",)}) for config in trials]
    assert check_claims(text, "x", trials) == [f"`one` is untestable: {note}"]


@pytest.mark.parametrize(
    ("own", "note"),
    [
        ("lr: 0.01", "lr (0.001, 0.01)"),
        ("lr: 0.01, duration: 90 steps", "epochs (8, None), duration (None, 90 steps), lr"),
        ("momentum: 0.5", None),  # which Adam does not have
        ("epochs: 0, lr: 0.01", "epochs (8, 0)"),  # an untrained student has no learning rate
        ("test_arms: [fog:3], curve_every: 2 epochs", None),
        ("teacher_dim: 512", None),
    ],
)
def test_what_else_tells_the_groups_apart_is_said_before_the_sweep(own: str, note: str) -> None:
    """It would count as the effect of what the claim names."""
    fixed = "dataset: digits, teacher: embedded, epochs: 8, curve_every: 1 epochs"
    grid = f"""
fixed: {{{fixed}}}
seeds: 7
parts: [{{fixed: {{student: width:0.25}}}}, {{fixed: {{student: width:1, {own}}}}}]
"""
    if "duration" in own:
        grid = grid.replace("epochs: 8", "duration: 8 epochs")
    text = f"claims:\n  - {{name: one, kind: difference, {SIZES}, metric: {M}}}\n"
    notes = [n for n in check_claims(text, "x", expand(read_grid(grid, "x", "x"))) if "also" in n]
    assert len(notes) == (note is not None)
    assert all(n.startswith(f"groups of `one` also differ in {note}") for n in notes)
    named = text.replace("width:1}", "width:1, lr: 0.01}").replace("0.25}", "0.25, lr: 0.001}")
    if own == "lr: 0.01":
        assert check_claims(named, "x", expand(read_grid(grid, "x", "x"))) == []


def test_planned_looks_are_checked_before_the_sweep() -> None:
    claims = f"claims:\n  - {{name: one, kind: difference, {SIZES}, metric: {M}}}\n"
    trials = expand(read_grid(GRID, "x", "x"))
    assert check_claims(claims, "x", trials) == []
    assert check_claims(f"looks: [7, 14]\n{claims}", "x", trials) == []
    assert check_claims(f"looks: [8, 14]\n{claims}", "x", trials) == [
        "looks are planned at 8 and 14 seeds: verdicts of 7 are exploratory"
    ]
    assert check_claims(f"looks: [7, 9, 14, 20]\n{claims}", "x", trials) == [
        "7 seeds cannot decide a family of 1 at 0.05 in each of 4 looks; 8 can: --seeds 8"
    ]


# ---- which trials ----


def test_groups_that_mix_trials_are_untestable() -> None:
    both = pd.concat([frame(), frame(objective="infonce")], ignore_index=True)
    found = verdict(f"kind: superiority, {TWO}", both)
    assert found.verdict == "untestable"
    assert "differ in objective (cosine, infonce); add it to `where`" in found.reason
    fixed = verdict(f"kind: superiority, {TWO}, where: {{objective: cosine}}", both)
    assert fixed.verdict == "supported"


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        (
            "epochs",
            (2, 30),
            "trials of width:1 differ in epochs (2, 30); add it to `where`",
        ),
        (
            "source",
            ("5" * 64, "6" * 64),
            f"trials of width:1 differ in source ({'5' * 16}, {'6' * 16}): they read other images, "
            "draws, prompts or teacher weights; delete those of one and run them again",
        ),
        (
            "weights_sha256",
            ("7" * 64, "8" * 64),
            f"trials of width:1 differ in weights_sha256 ({'7' * 16}, {'8' * 16}): their teachers "
            "have other weights; delete those of one and run them again",
        ),
        (
            "device",
            ("cpu", "cuda"),
            "trials of width:1 differ in device (cpu, cuda): on another kind of device the same "
            "seed gives other bits; delete those of one and run them again",
        ),
        (
            "device",
            ("cpu", None),
            "trials of width:1 differ in device (None, cpu): on another kind of device the same "
            "seed gives other bits; delete those of one and run them again",
        ),
        ("mine_weight", (0.5, 1.0), "differ in mine_weight (0.5, 1.0); add it to `where`"),
    ],
)
def test_seeds_of_unlike_trials_are_no_group(column: str, values: Any, reason: str) -> None:
    """Also where no two of them have the same seed. `mine_weight` is a plugin's field."""
    trials = frame(10)
    assert verdict(f"kind: superiority, {TWO}", trials).verdict == "supported"
    trials[column] = [values[seed >= 5] for seed in trials["seed"]]
    found = verdict(f"kind: superiority, {TWO}", trials)
    assert found.verdict == "untestable"
    assert reason in found.reason
    if "where" in reason:
        fixed = verdict(f"kind: superiority, {TWO}, where: {{{column}: {values[0]}}}", trials)
        assert fixed.evidence is not None
        assert fixed.evidence.n == 5


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("recipe", (1, 2), "groups differ in recipe (1, 2): delete those of one"),
        (
            "weights_sha256",
            ("7" * 64, "8" * 64),
            f"groups differ in weights_sha256 ({'7' * 16}, {'8' * 16}) of one teacher: delete",
        ),
    ],
)
def test_groups_of_other_arithmetic_or_weights_are_not_compared(
    column: str, values: Any, reason: str
) -> None:
    trials = frame(10).assign(teacher="embedded", dataset="digits")
    assert verdict(f"kind: superiority, {TWO}", trials).verdict == "supported"
    trials[column] = [values[student == "width:4"] for student in trials["student"]]
    found = verdict(f"kind: superiority, {TWO}", trials)
    assert found.verdict == "untestable"
    assert found.reason.startswith(reason)
    # Another teacher has other weights, and a claim may be about recipes.
    trials["teacher"] = ["a" if student == "width:4" else "b" for student in trials["student"]]
    about = TWO.replace("width:1}", "width:1, recipe: 1}").replace("4}", "4, recipe: 2}")
    text = f"kind: superiority, {about if column == 'recipe' else TWO}"
    assert verdict(text, trials).verdict == "supported"


def test_seeds_of_a_group_may_differ_in_what_their_identity_leaves_out_and_in_results() -> None:
    trials = frame(10).assign(elastic="order", data_seed="per_seed", source="5" * 64)
    late = trials["seed"] >= 5
    unlike = {
        "teacher_sha256": (None, "7" * 64),
        "teacher_precision": (None, "fp32"),
        "ranks": (1, 2),
        "torch": ("2.14.0", "2.15.0"),
        "instruction_set": ("AVX2", "AVX512"),
        "probe_versions": ("linear 3", "linear 4"),
        "started_ms": (1, 2),
        "data.chance": (0.1, 0.11),
        "epochs": (5, 5.0),
    }
    for column, values in unlike.items():
        trials[column] = pd.Series([values[one] for one in late], dtype=object)
    assert verdict(f"kind: superiority, {TWO}", trials).verdict == "supported"
    trials["elastic"] = "off"
    assert "differ in ranks (1, 2)" in verdict(f"kind: superiority, {TWO}", trials).reason


def test_trials_that_have_not_finished_have_no_source_and_no_device() -> None:
    trials = frame(10).assign(device="cpu", source="5" * 64)
    trials.loc[[0, 1], "status"] = ["unfinished", "diverged"]
    trials.loc[[0, 1], ["device", "source"]] = None
    assert verdict(f"kind: superiority, {TWO}", trials).verdict == "supported"


def test_a_group_that_mixes_trials_of_other_seeds_is_refused_before_the_sweep() -> None:
    """As parts of a grid with seeds of their own make it."""
    text = f"claims:\n  - {{name: one, kind: difference, {SIZES}, metric: {M}}}\n"
    trials = expand(read_grid(GRID, "x", "x"))
    later = [c.model_copy(update={"seed": c.seed + 100, "epochs": 30}) for c in trials]
    with pytest.raises(ValueError, match=r"differ in epochs \(30, 8\); add it to `where`"):
        check_claims(text, "x", [*trials, *later])
    pinned = [c.model_copy(update={"seed": c.seed + 100, "teacher_dim": 512}) for c in trials]
    assert check_claims(text, "x", [*trials, *pinned]) == []


def test_missing_trials_and_metrics_are_untestable() -> None:
    other = TWO.replace("width:4", "width:8")
    assert verdict(f"kind: difference, {other}", frame()).reason == (
        "no trial with student = width:8 (found: width:1, width:4)"
    )
    gone = verdict(f"kind: difference, {TWO}", frame().drop(columns=M))
    assert gone.reason == f"width:1: no value of {M} (8 without the value)"


def test_numbers_are_compared_as_numbers_and_text_as_text() -> None:
    values = TrialValues(frame(epochs=30, classes=None, arm="30"))
    assert len(values.rows({"epochs": 30.0, "student": "width:1", "classes": None})) == 8
    with pytest.raises(UntestableError):
        values.rows({"arm": 30})


def test_across_capacities_welch_is_primary_and_across_arms_pairs_are() -> None:
    arms = frame()
    arms["arm"] = ["noise:0.1"] * 8 + ["clean"] * 8
    arms["student"], arms["student.parameters"] = "width:1", 8e5
    arms[M] += [0.001 * (i * 5 % 7) for i in range(16)]
    text = f"kind: superiority, metric: {M}, first: {{arm: noise:0.1}}, second: {{arm: clean}}"
    found = [
        verdict(f"kind: superiority, {TWO}", frame()),
        verdict(text, arms),
        verdict(text + ", test: welch", arms),
    ]
    evidence = [one.evidence for one in found if one.evidence]
    assert [e.contrast.test for e in evidence if e.contrast] == ["welch", "paired", "welch"]
    assert [e.secondary.test for e in evidence if e.secondary] == ["welch", "paired"]
    assert evidence[1].correlation == pytest.approx(0.99, abs=0.01)


# ---- kinds ----


def test_superiority_is_refuted_where_it_is_significantly_the_other_way() -> None:
    assert verdict(f"kind: superiority, {TWO}", frame()).verdict == "supported"
    other = (
        f"kind: superiority, metric: {M}, first: {{student: width:4}}, second: {{student: width:1}}"
    )
    assert verdict(other, frame()).verdict == "refuted"
    assert verdict(f"{other}, margin: -0.2", frame()).verdict == "supported"
    assert verdict(f"kind: superiority, {TWO}, margin: 0.2", frame()).verdict == "refuted"


def test_a_difference_is_refuted_only_within_a_margin() -> None:
    trials = frame()
    assert verdict(f"kind: difference, {TWO}", trials).verdict == "supported"
    trials[M] = [0.5 + 0.01 * (i * 7 % 8) for i in range(16)]
    assert verdict(f"kind: difference, {TWO}", trials).verdict == "inconclusive"
    assert verdict(f"kind: difference, {TWO}, margin: 0.1", trials).verdict == "refuted"


def test_a_ratio_compares_geometric_means() -> None:
    trials = frame()
    trials[M] = [2.5 * (1 + 0.001 * i) for i in range(8)] + [1 + 0.001 * i for i in range(8)]
    found = verdict(f"kind: ratio, {TWO}, bound: 2", trials)
    assert found.verdict == "supported"
    assert found.evidence is not None
    assert found.evidence.quantity == "ln ratio"
    assert verdict(f"kind: ratio, {TWO}, bound: 3", trials).verdict == "refuted"
    trials.loc[0, M] = 0.0
    assert "needs positive values" in verdict(f"kind: ratio, {TWO}, bound: 2", trials).reason


def test_an_interaction_subtracts_within_each_seed() -> None:
    """Both metrics share a large part by seed, which cancels; the effects differ by 0.1."""
    trials = frame()
    base = [0.1 * (seed % 5) for seed in trials["seed"]]
    wobble = [0.002 * (i * 7 % 5) for i in range(16)]
    trials["test/high"] = [b + 0.3 + w for b, w in zip(base, wobble, strict=True)]
    trials["test/low"] = base
    trials.loc[8:, "test/high"] -= 0.1
    found = verdict(
        "kind: interaction, metric: test/high, minus: {metric: test/low}, "
        "first: {student: width:1}, second: {student: width:4}",
        trials,
    )
    assert found.verdict == "supported"
    assert found.evidence is not None
    assert found.evidence.contrast is not None
    assert found.evidence.contrast.estimate == pytest.approx(0.1, abs=0.005)


def test_a_slope_uses_the_parameters_of_the_students() -> None:
    found = verdict(
        f"kind: equivalence, metric: {M}, along: {{student: [width:1, width:4]}}, margin: 0.01",
        frame(),
    )
    assert found.verdict == "refuted"
    assert isinstance(found.claim, Equivalence)
    assert found.evidence is not None
    assert found.evidence.quantity == "slope"


def test_a_trend_is_claimed_in_one_direction_and_refuted_in_the_other() -> None:
    """The values of width:1 are higher, so that they fall with capacity."""
    text = f"kind: trend, metric: {M}, along: {{student: [width:1, width:4]}}"
    falls = verdict(f"{text}, direction: falls", frame())
    assert (falls.verdict, falls.evidence is not None) == ("supported", True)
    assert verdict(f"{text}, direction: rises", frame()).verdict == "refuted"
    assert verdict(f"{text}, direction: falls, margin: 0.3", frame()).verdict == "refuted"
    flat = frame()
    flat[M] = [0.5 + 0.01 * (i * 7 % 8) for i in range(16)]
    assert verdict(f"{text}, direction: falls", flat).verdict == "inconclusive"


@pytest.mark.parametrize("test", ["welch", "paired"])
def test_a_slope_has_no_effect_size_of_a_difference(test: str) -> None:
    """Its sign would be the other one, and its unit a slope over a deviation."""
    text = f"kind: trend, direction: falls, metric: {M}, test: {test}"
    found = verdict(f"{text}, along: {{student: [width:1, width:4]}}", frame_of_noise())
    assert found.evidence is not None
    assert found.evidence.effect is None
    assert found.evidence.secondary is not None


def frame_of_noise() -> pd.DataFrame:
    trials = frame()
    trials[M] += [0.003 * (i * i % 7) for i in range(16)]
    return trials


def test_the_exact_test_of_a_refuted_equivalence_is_against_the_nearer_margin() -> None:
    trials = frame()
    text = f"kind: equivalence, {TWO}, margin: 0.05, test: paired"
    by_seed = {seed: 0.065 + 0.03 * (seed - 3.5) / 3.5 for seed in range(8)}  # 0.035 to 0.095
    trials[M] = [0.5 + by_seed.get(i, 0.0) for i in range(16)]
    found = verdict(text, trials)
    assert found.evidence is not None
    by_seed = {seed: trials[M][seed] - trials[M][seed + 8] for seed in range(8)}
    assert found.evidence.flips == sign_flip_p({s: v - 0.05 for s, v in by_seed.items()})
    far = sign_flip_p({s: v + 0.05 for s, v in by_seed.items()})
    assert found.evidence.flips > 0.05 > far
    trials[M] = 1 - trials[M]  # the same on the other side
    mirrored = verdict(text, trials).evidence
    assert mirrored is not None
    assert mirrored.flips == pytest.approx(found.evidence.flips)


@pytest.mark.parametrize(
    ("text", "apart", "floor", "outcome"),
    [
        ("kind: equivalence, margin: 0.02", 0.0, 1 / 32, "supported"),
        ("kind: equivalence, margin: 0.02", 0.2, 2 / 32, "undecidable"),
        ("kind: difference, margin: 0.02", 0.0, 1 / 32, "refuted"),
        ("kind: difference, margin: 0.02", 0.2, 2 / 32, "undecidable"),
        ("kind: difference", 0.0, 2 / 32, "undecidable"),
    ],
)
def test_the_floor_of_five_seeds_is_halved_for_tost_alone(
    text: str, apart: float, floor: float, outcome: str
) -> None:
    """No outcome of five signs gives a two-sided p of 0.05; one within a margin has 1 / 2^5."""
    trials = frame(5)
    trials[M] = [0.5 + apart * (i < 5) + 0.001 * (i * i % 7) for i in range(10)]
    found = verdict(f"{text}, {TWO}, test: paired", trials)
    assert found.evidence is not None
    assert found.evidence.floor == floor
    assert found.verdict == outcome
    assert found.evidence.flips is not None
    assert found.evidence.flips >= floor
    if outcome == "undecidable":
        assert found.reason.startswith("5 seeds cannot give an exact p below 0.062")


# ---- what goes with a verdict ----


def test_diverged_seeds_are_counted_and_said() -> None:
    trials = frame(10)
    trials.loc[[0, 1], "status"] = "diverged"
    trials.loc[[0, 1], M] = None
    found = verdict(f"kind: superiority, {TWO}", trials)
    assert found.evidence is not None
    assert found.evidence.groups[0].lost == {"diverged": 2}
    assert found.evidence.n == 8
    assert "width:1: 2 of 10 seeds diverged, in no mean" in found.notes


def test_seeds_that_an_interaction_lost_in_either_of_its_trials_are_counted() -> None:
    """Of width:1 seed 1 has diverged on clean images and seed 2 with noise, and both count."""
    clean, noisy = frame(10), frame(10).assign(arm="noise:0.1", trial=lambda t: t["trial"] + "n")
    noisy[M] -= [0.2 + 0.003 * (i * i % 7) for i in range(20)]
    clean.loc[1, "status"] = noisy.loc[2, "status"] = "diverged"
    clean.loc[[3, 4], "status"] = noisy.loc[[4, 5], "status"] = "failed"
    noisy.loc[6, M] = None
    noisy = noisy.drop(index=7)  # was never begun
    text = f"kind: interaction, {TWO}, where: {{arm: noise:0.1}}, minus: {{arm: clean}}"
    found = verdict(text, pd.concat([clean, noisy], ignore_index=True))
    assert found.evidence is not None
    first, second = found.evidence.groups
    assert set(first.values) == {0, 8, 9}
    assert first.lost == {
        "diverged": 2, "failed": 3, "without the value": 1, "without the other trial": 1
    }  # fmt: skip
    assert (second.n, second.lost) == (10, {})
    assert "noise:0.1 width:1: 2 of 10 seeds diverged, in no mean" in found.notes


def test_equal_values_in_every_seed_are_untestable() -> None:
    trials = frame()
    trials[M] = [1.0] * 8 + [0.5] * 8
    assert verdict(f"kind: difference, {TWO}", trials).reason.startswith("no spread between seeds")


@pytest.mark.parametrize(
    "text",
    [
        f"kind: superiority, {TWO}",
        f"kind: superiority, {TWO}, test: paired",
        f"kind: superiority, {TWO}, margin: -0.05",
        f"kind: equivalence, {TWO}, margin: 0.2",
        f"kind: ratio, {TWO}, bound: 1.01",
        f"kind: trend, metric: {M}, direction: falls, along: {{student: [width:1, width:4]}}",
        f"kind: interaction, {TWO}, minus: {{metric: test/low}}",
        f"kind: interaction, {TWO}, minus: {{metric: test/low}}, test: paired",
    ],
)
def test_equal_values_that_rounding_tells_apart_are_untestable(text: str) -> None:
    trials = frame(10)
    trials[M] = [0.7] * 10 + [0.6] * 10
    trials["test/low"] = [0.2] * 10 + [0.1] * 10
    found = verdict(text, trials)
    assert (found.verdict, found.reason[:23]) == ("untestable", "no spread between seeds")
    if "low" in text:  # effects of 0 but for rounding, of values that differ between seeds
        base = [0.1 * seed for seed in trials["seed"]]
        trials[M] = [(b + 0.3) - 0.3 for b in base]
        trials["test/low"] = base
        found = verdict(text, trials)
        assert (found.verdict, found.reason[:23]) == ("untestable", "no spread between seeds")


def test_seeds_needed_by_welch_do_not_depend_on_how_many_seeds_are_shared() -> None:
    """Ten seeds each, of which the groups share all or three."""
    needed: list[int | None] = []
    for shift in (0, 7):
        trials = frame(10)
        trials[M] = [0.5 + 0.01 * (i * 7 % 10) for i in range(20)]
        trials.loc[trials["student"] == "width:4", "seed"] += shift
        trials.loc[trials["student"] == "width:1", M] += 0.004
        found = verdict(f"kind: equivalence, {TWO}, margin: 0.02", trials)
        assert found.evidence is not None
        needed.append(round(1e6 * found.evidence.single_sd))
    assert needed[0] == needed[1]


def test_one_seed_is_undecidable_and_says_how_many_would_decide() -> None:
    found = verdict(f"kind: difference, {TWO}", frame(1))
    assert (found.verdict, found.seeds_needed) == ("undecidable", 6)


def curves(last: float, first_step: int = 10) -> pd.DataFrame:
    """Rank rises to 16 at step 80, then to 16 * (1 + last) at step 100."""
    points = [(first_step, 8.0), (80, 16.0), (90, 16.0), (100, 16.0 * (1 + last))]
    return pd.DataFrame(
        [
            {"trial": f"{student}{seed}", "step": step, "rank/effective": value + 0.001 * seed}
            for student in ("width:1", "width:4")
            for seed in range(8)
            for step, value in (points if first_step < 80 else points[2:])
        ]
    )


def test_a_gated_claim_needs_a_rank_that_has_settled() -> None:
    text = f"kind: superiority, {TWO}, converged: true"
    assert verdict(text, frame(), curves(0.015)).verdict == "supported"
    moving = verdict(text, frame(), curves(0.03))
    assert (moving.verdict, moving.seeds_needed) == ("not converged", None)
    assert "moves by 2.9%" in moving.reason
    held = curves(0.03).rename(columns={"rank/effective": "validation/rank/effective"})
    assert verdict(text, frame(), held).reason == moving.reason
    ends = curves(0.015)
    ends = ends[ends["step"].isin((10, 100))].replace({"step": {10: 0}})
    for unseen in (None, curves(0.0, first_step=90), ends):
        found = verdict(text, frame(), unseen)
        assert found.verdict == "untestable"
        assert "set curve_every" in found.reason
