"""A run's claims: frozen before its first trial, judged afterwards, checked by sweep.report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweep.analysis.claims import Interaction, Superiority, Where
from sweep.analysis.declared import FILE, declared, record_claims
from sweep.analysis.evidence import evidence_of
from sweep.analysis.frame import load
from sweep.analysis.images import image_interval, joint_interval
from sweep.analysis.judged import as_rows, judge
from sweep.analysis.values import TrialValues
from sweep.journal.run_record import open_record, record_sweep
from sweep.planning.expand import expand
from sweep.planning.grid import Grid, read_grid
from sweep.report import main
from tests.sweep.made import result_line, write_journal
from tests.sweep.reporting.trials import write_page
from trainers.config.schema import TrialConfig

ID = "0123456789abcdef"
M = "test/linear/paper/accuracy"
GRID = """
fixed: {dataset: digits, teacher: embedded, epochs: 2}
axes: {student: [width:1, width:4]}
seeds: SEEDS
"""
SIZES = {"width:1": 811_264, "width:4": 2_732_032}
BEATS = f"""
claims:
  - {{name: S beats L, kind: superiority, metric: {M},
     first: {{student: width:1}}, second: {{student: width:4}}}}
"""
LATER = (
    BEATS
    + f"""
  - {{name: L beats S, kind: superiority, metric: {M},
     first: {{student: width:4}}, second: {{student: width:1}}}}
"""
)


def trials_of(seeds: int) -> list[TrialConfig]:
    grid: Grid = read_grid(GRID.replace("SEEDS", str(seeds)), "mine", "mine")
    return expand(grid)


def record(config: TrialConfig) -> dict[str, Any]:
    """width:1 is better by 0.1; the spread over seeds is about 0.01."""
    base = 0.6 if config.student == "width:1" else 0.5
    return {
        "id": config.identity,
        "config": config.model_dump(mode="json"),
        "student": {"spec": config.student, "total": SIZES[config.student]},
        "metrics": {M: base + 0.01 * (config.seed * 7 % 5)},
        "arrays": {M.replace("accuracy", "correct"): [1.0, float(base > 0.55), 0.0, 1.0]},
    }


def finish(folder: Path, trials: list[TrialConfig]) -> None:
    write_journal(folder, [result_line(record(config)) for config in trials])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of eight seeds whose claim was declared before."""
    trials = trials_of(8)
    record_claims(tmp_path, "mine", BEATS, trials, str(tmp_path), ID)
    finish(tmp_path, trials)
    return tmp_path


def test_claims_are_frozen_before_the_first_trial(run: Path) -> None:
    (family,) = declared(str(run))
    assert [claim.name for claim in family.claims.claims] == ["S beats L"]
    assert (family.post_hoc, family.looks) == (frozenset(), (8,))
    (judged,) = judge(run)
    assert [verdict.verdict for verdict in judged.verdicts] == ["supported"]
    assert (judged.alpha, judged.missing, judged.open_claims) == (0.05, 0, [])


def test_the_same_claims_are_not_declared_twice(run: Path) -> None:
    before = (run / FILE).read_bytes()
    record_claims(run, "mine", BEATS, trials_of(8), str(run), ID)
    assert (run / FILE).read_bytes() == before


def test_a_claim_that_is_added_later_is_post_hoc_and_grows_the_family(run: Path) -> None:
    record_claims(run, "mine", LATER, trials_of(8), str(run), ID)
    (judged,) = judge(run)
    assert [(v.claim.name, v.post_hoc, v.verdict) for v in judged.verdicts] == [
        ("S beats L", False, "supported"),
        ("L beats S", True, "refuted"),
    ]
    assert judged.verdicts[0].corrected is not None
    assert judged.verdicts[0].corrected.alpha == pytest.approx(0.025)


def test_a_claim_that_is_removed_later_is_still_judged(run: Path) -> None:
    record_claims(run, "mine", LATER.replace("S beats L", "other"), trials_of(8), str(run), ID)
    (judged,) = judge(run)
    names = [(verdict.claim.name, verdict.post_hoc) for verdict in judged.verdicts]
    assert names == [("S beats L", False), ("other", True), ("L beats S", True)]


def test_claims_that_change_before_any_trial_are_not_post_hoc(tmp_path: Path) -> None:
    record_claims(tmp_path, "mine", LATER, trials_of(8), str(tmp_path), ID)
    record_claims(tmp_path, "mine", BEATS, trials_of(8), str(tmp_path), ID)
    finish(tmp_path, trials_of(8))
    (judged,) = judge(tmp_path)
    assert [(v.claim.name, v.post_hoc) for v in judged.verdicts] == [("S beats L", False)]


def test_claims_that_were_withdrawn_before_any_trial_do_not_come_back(tmp_path: Path) -> None:
    """The file was changed and put back as it was."""
    for text in (BEATS, LATER, f"alpha: 0.1{BEATS}", BEATS):
        record_claims(tmp_path, "mine", text, trials_of(8), str(tmp_path), ID)
    finish(tmp_path, trials_of(8))
    (judged,) = judge(tmp_path)
    assert [(v.claim.name, v.post_hoc) for v in judged.verdicts] == [("S beats L", False)]
    assert not any("is ignored" in note for note in judged.verdicts[0].notes)


def test_seeds_that_were_withdrawn_before_any_trial_are_not_missing(tmp_path: Path) -> None:
    for seeds in (10, 8):
        record_claims(tmp_path, "mine", BEATS, trials_of(seeds), str(tmp_path), ID)
    finish(tmp_path, trials_of(8))
    (judged,) = judge(tmp_path)
    assert [(v.missing, v.confirmed) for v in judged.verdicts] == [(0, True)]
    assert declared(str(tmp_path))[0].looks == (8,)


def test_the_store_keeps_claims_of_a_folder_that_is_lost(tmp_path: Path) -> None:
    store, folder = str(tmp_path / "store"), tmp_path / "run"
    folder.mkdir()
    kept = open_record(folder, store, "mine")
    record_claims(folder, "mine", BEATS, trials_of(8), store, kept.id)
    record_sweep(store, kept, {})
    (frozen,) = declared(str(folder))
    assert declared(store) == [frozen]
    (folder / FILE).unlink()
    (tmp_path / "store" / "trials" / trials_of(1)[0].identity).mkdir(parents=True)
    record_claims(folder, "mine", BEATS, trials_of(10), store, kept.id)
    (later,) = declared(str(folder))
    assert (later.post_hoc, later.claims, later.looks) == (frozenset(), frozen.claims, (10,))
    assert declared(store) == [later]


def test_claims_after_trials_that_lie_in_the_store_are_post_hoc(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "trials" / trials_of(1)[0].identity).mkdir(parents=True)
    record_claims(tmp_path, "mine", BEATS, trials_of(8), str(store), ID)
    finish(tmp_path, trials_of(8))
    (judged,) = judge(tmp_path)
    assert judged.verdicts[0].post_hoc


def test_seeds_that_are_added_after_a_look_are_exploratory(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first look had all of alpha, so that none is left."""
    assert exit_status(str(run), "--check") == 0
    record_claims(run, "mine", BEATS, trials_of(10), str(run), ID)
    finish(run, trials_of(10))
    (judged,) = judge(run)
    (verdict,) = judged.verdicts
    assert (verdict.verdict, verdict.exploratory, verdict.confirmed) == ("supported", True, False)
    assert as_rows([judged])[0]["exploratory"] is True
    capsys.readouterr()
    assert exit_status(str(run), "--check") == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"claim:   S beats L: {'; '.join(verdict.notes)}",
        "not supported: S beats L (supported, exploratory)",
    ]
    assert "seeds were added after a look (8 then 10), planned were 8: no alpha" in said.err
    assert "(exploratory)" in said.out


@pytest.mark.parametrize(("planned", "exploratory"), [("[8, 10]", False), ("[8, 12]", True)])
def test_looks_that_were_declared_share_alpha(
    tmp_path: Path, planned: str, exploratory: bool
) -> None:
    text = f"looks: {planned}{BEATS}"
    for seeds in (8, 10):
        record_claims(tmp_path, "mine", text, trials_of(seeds), str(tmp_path), ID)
        finish(tmp_path, trials_of(seeds))
        (judged,) = judge(tmp_path)
        assert judged.alpha == pytest.approx(0.025)
        assert judged.verdicts[0].corrected is not None
        assert judged.verdicts[0].corrected.alpha == pytest.approx(0.025)
        assert judged.verdicts[0].exploratory is (exploratory and seeds == 10)


def test_looks_and_alpha_that_change_later_are_ignored_and_said(run: Path) -> None:
    text = f"alpha: 0.6\nlooks: [8, 10]{BEATS}"
    record_claims(run, "mine", text, trials_of(10), str(run), ID)
    finish(run, trials_of(10))
    (judged,) = judge(run)
    assert (judged.alpha, judged.verdicts[0].exploratory) == (0.05, True)
    assert judged.verdicts[0].notes[-2:] == (
        "alpha 0.6 of a later claims file is ignored: it was declared as 0.05",
        "looks [8, 10] of a later claims file are ignored: declared were none",
    )


def test_trials_of_another_grid_do_not_join_a_claim(run: Path) -> None:
    other = read_grid(GRID.replace("SEEDS", "8").replace("epochs: 2", "epochs: 3"), "b", "b")
    finish(run, [*trials_of(8), *expand(other)])
    (judged,) = judge(run)
    assert judged.verdicts[0].verdict == "supported"


@pytest.mark.parametrize("field", ["source", "device"])
def test_seeds_of_another_source_or_device_are_not_pooled(run: Path, field: str) -> None:
    """The report refuses or splits the same trials."""

    def unlike(config: TrialConfig) -> dict[str, Any]:
        late = config.seed >= 4
        other = {"source": "6" * 64} if field == "source" else {"environment": {"device": "cuda"}}
        return record(config) | (other if late else {})

    write_journal(run, [result_line(unlike(config)) for config in trials_of(8)])
    (judged,) = judge(run)
    (verdict,) = judged.verdicts
    assert (verdict.verdict, verdict.confirmed) == ("untestable", False)
    assert f"trials of width:1 differ in {field} (" in verdict.reason


def test_a_check_in_the_middle_of_a_sweep_is_not_passed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six of eight seeds are there, one has failed and is to be tried again, one never began."""
    ended = [config for config in trials_of(8) if config.seed < 6]
    (failed, *_) = [config for config in trials_of(8) if config.seed == 6]
    finish(run, ended)
    failure = {"event": "failed", "trial": failed.identity, "time_ms": 5, "error": "OSError: x"}
    with (run / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(failure | {"config": failed.model_dump(mode="json")}) + "\n")
    (judged,) = judge(run)
    note = "4 trials of this grid have not ended: the verdict is of the others, and may change"
    assert (judged.missing, judged.verdicts[0].verdict) == (4, "supported")
    assert note in judged.verdicts[0].notes
    assert (as_rows([judged])[0]["missing"], note in as_rows([judged])[0]["notes"]) == (4, True)
    assert exit_status(str(run), "--check") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "not supported: S beats L (supported, trials are missing)"
    page = write_page(run).read_text()
    assert "S beats L (trials are missing)" in page
    assert note in page


def test_a_diverged_trial_has_ended(run: Path) -> None:
    first, *others = trials_of(8)
    finish(run, others)
    diverged = {"event": "failed", "trial": first.identity, "time_ms": 5}
    diverged |= {"error": "DivergedError: diverged at step 3", "config": first.model_dump()}
    with (run / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(diverged, default=list) + "\n")
    (judged,) = judge(run)
    assert (judged.missing, judged.open_claims) == (0, [])


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / FILE).write_text('{"declarations": [{}]}')
    with pytest.raises(ValueError, match=r"claims\.json: not readable"):
        judge(run)


def test_images_that_are_not_the_same_or_not_readable_give_no_interval(run: Path) -> None:
    def records(trials: Any, arrays: Any) -> Any:
        groups: list[Where] = [{"student": "width:1"}, {"student": "width:4"}]
        return TrialValues(trials, arrays=arrays).records(groups, M, [range(8), range(8)])

    def gone(trial: str) -> Any:
        raise FileNotFoundError(trial)

    study = load(run)
    found = records(study.trials, study.arrays)
    assert [[*part] for part in found] == [[*range(8)], [*range(8)]]
    assert {len(right_N) for part in found for right_N in part.values()} == {4}
    assert records(study.trials, gone) is None
    other = study.trials.assign(
        dataset=["a" if s == "width:1" else "b" for s in study.trials["student"]]
    )
    assert records(other, study.arrays) is None


def test_seeds_and_images_are_resampled_in_pairs_and_of_interactions_too() -> None:
    rng = np.random.default_rng(5)
    base_SN = (rng.random((8, 60)) < 0.8).astype(float)
    rows: list[dict[str, Any]] = []
    stored: dict[str, dict[str, list[float]]] = {}
    for arm, lost in (("clean", 20), ("noise:0.1", 10)):
        for seed in rng.permutation(8).tolist():  # in no order: pairs are found by seed
            noisy_N = base_SN[seed].copy()
            noisy_N[:lost] = 0.0
            right = {"test/clean/correct": base_SN[seed], "test/noisy/correct": noisy_N}
            trial = f"{arm}-{seed}"
            stored[trial] = {name: values_N.tolist() for name, values_N in right.items()}
            means = {n.replace("correct", "accuracy"): v.mean() for n, v in right.items()}
            rows.append({"trial": trial, "status": "finished", "seed": seed, "arm": arm} | means)
    values = TrialValues(pd.DataFrame(rows), arrays=stored.__getitem__)
    groups: Any = {"first": {"arm": "noise:0.1"}, "second": {"arm": "clean"}}
    for claim in (
        Superiority(
            name="a", kind="superiority", metric="test/noisy/accuracy", test="paired", **groups
        ),
        Interaction(
            name="b",
            kind="interaction",
            metric="test/noisy/accuracy",
            minus={"metric": "test/clean/accuracy"},
            test="paired",
            **groups,
        ),
    ):
        found = evidence_of(claim, values)
        assert found.contrast is not None
        assert found.joint is not None
        assert 0 < found.joint[0] < found.contrast.estimate < found.joint[1] < 10 / 60 + 0.15


@pytest.mark.parametrize("kind", ["superiority", "interaction"])
@pytest.mark.parametrize("test", ["paired", "welch"])
def test_intervals_over_images_are_of_the_seeds_of_the_estimate(kind: str, test: str) -> None:
    """Seed 9 has diverged with noise, and fits badly: pairs leave it out of both groups.

    Seed 8 has finished without a value, although its images are recorded; that of seed 0 without
    noise was never begun.
    """
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    stored: dict[str, dict[str, list[float]]] = {}
    for arm in ("clean", "noise:0.1"):
        for seed in range(1 if arm == "clean" else 0, 10):
            right_N = (rng.random(400) < (0.1 if seed in (0, 8, 9) else 0.8)).astype(float)
            trial = f"{arm}-{seed}"
            stored[trial] = {"test/a/correct": list(right_N), "test/b/correct": [0.0] * 400}
            lost = arm != "clean" and seed == 9
            rows.append(
                {"trial": trial, "status": "diverged" if lost else "finished", "seed": seed}
                | {"test/a/accuracy": None if seed == 8 else right_N.mean(), "arm": arm}
                | {"test/b/accuracy": 0.0}
            )
    values = TrialValues(pd.DataFrame(rows), arrays=stored.__getitem__)
    fields: dict[str, Any] = {"first": {"arm": "noise:0.1"}, "second": {"arm": "clean"}}
    fields |= {"name": "one", "metric": "test/a/accuracy", "kind": kind, "test": test}
    if kind == "interaction":
        claim = Interaction(minus={"metric": "test/b/accuracy"}, **fields)
    else:
        claim = Superiority(**fields)
    found = evidence_of(claim, values)
    assert found.contrast is not None
    assert found.images is not None
    assert found.joint is not None
    kept = [range(1, 8)] * 2 if test == "paired" else [range(8), [*range(1, 8), 9]]
    means_SN = [
        np.array([stored[f"{arm}-{seed}"]["test/a/correct"] for seed in seeds])
        for arm, seeds in zip(("noise:0.1", "clean"), kept, strict=True)
    ]
    assert found.contrast.estimate == pytest.approx(means_SN[0].mean() - means_SN[1].mean())
    assert found.images == image_interval(*means_SN)
    assert found.joint == joint_interval(*means_SN, pairs=test == "paired")


# ---- python -m sweep.report ----


def exit_status(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(argv))
    return int(left.value.code or 0)


def test_check_passes_where_every_claim_is_supported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(str(run), "--check") == 0
    assert "supported" in capsys.readouterr().out


def test_check_names_the_claims_that_are_not_supported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_claims(run, "mine", LATER, trials_of(8), str(run), ID)
    assert exit_status(str(run), "--check") == 1
    assert (
        capsys.readouterr().err.splitlines()[-1] == "not supported: L beats S (refuted, post hoc)"
    )


def test_check_without_claims_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, trials_of(2))
    assert exit_status(str(tmp_path), "--check") == 2
    assert "no claims were declared for this run; put NAME.claims.yaml" in capsys.readouterr().err


def test_a_claims_file_of_later_is_judged_as_post_hoc(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path_factory.mktemp("claims") / "later.claims.yaml"
    file.write_text(LATER)
    assert exit_status(str(run), "--check", "--claims", str(file)) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "(post hoc)" in out
    assert exit_status(str(run), "--check", "--claims", str(file) + "x") == 2


def test_only_the_frozen_file_itself_is_not_post_hoc(run: Path, tmp_path: Path) -> None:
    """Claims that were declared, with another alpha or in a smaller family, are another family."""
    six = "".join(BEATS.replace("claims:", "").replace("S beats L", f"S beats L {i}")
                  .replace(M, f"test/noise/pixel/0.{i}/accuracy") for i in range(1, 7))  # fmt: skip
    folder = tmp_path / "six"
    folder.mkdir()
    whole = f"claims:{six}"
    record_claims(folder, "mine", whole, trials_of(8), str(folder), ID)
    finish(folder, trials_of(8))
    file = tmp_path / "other.claims.yaml"
    file.write_text(whole)
    (same,) = judge(folder, claims=str(file))
    assert (same.alpha, [v.post_hoc for v in same.verdicts]) == (0.05, [False] * 6)
    file.write_text("alpha: 0.6\nclaims:" + six[: six.index("  - {name: S beats L 3")])
    (other,) = judge(folder, claims=str(file))
    assert (other.alpha, [v.post_hoc for v in other.verdicts]) == (0.6, [True, True])


@pytest.mark.parametrize("looks", ["", "looks: [10]"])
def test_a_copy_of_the_claims_does_not_pass_the_check_that_they_fail(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], looks: str
) -> None:
    """The declared claims are exploratory, as seeds were added after a look."""
    record_claims(run, "mine", BEATS, trials_of(10), str(run), ID)
    finish(run, trials_of(10))
    assert exit_status(str(run), "--check") == 1
    file = tmp_path / "copy.claims.yaml"
    file.write_text(f"{looks}{BEATS}# a comment\n")
    assert exit_status(str(run), "--check", "--claims", str(file)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "not supported: S beats L (supported, post hoc)"


def test_a_claim_that_was_added_later_passes_no_check(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = LATER.replace("L beats S", "again").replace("first: {student: width:4}, second: "
        "{student: width:1}", "first: {student: width:1}, second: {student: width:4}")  # fmt: skip
    record_claims(run, "mine", later, trials_of(8), str(run), ID)
    assert exit_status(str(run), "--check") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "not supported: again (supported, post hoc)"


def test_verdicts_are_plain_json(run: Path) -> None:
    (row,) = as_rows(judge(run))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["kind"], row["verdict"], row["test"], row["n"]) == (
        "verdict", "supported", "welch", 8
    )  # fmt: skip
    assert row["estimate"] == pytest.approx(0.1)
    assert row["notes"] == [
        "over test images alone, seeds held fixed: +0.0 to +75.0 points",
        "over test images and seeds together: +0.0 to +75.0 points",
    ]
    assert row["interval_images_and_seeds"] == row["interval_images"] == [0.0, 0.75]
