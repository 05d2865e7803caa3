"""The HTML report: complete, self-contained, escaped, repeatable; and its command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweep.analysis import words
from sweep.analysis.claims import read_claims
from sweep.analysis.frame import load
from sweep.analysis.layout import less_teacher, two_way
from sweep.analysis.mean_spectrum import rank_of_mean_spectrum
from sweep.analysis.verdicts import verdicts_of_trials
from sweep.report import main, report
from sweep.reporting.figures import FIGURES, save_figures
from sweep.reporting.groups import short_names
from sweep.reporting.page import material_of, render
from sweep.reporting.published import published_table
from tests.sweep.made import result_line, write_journal
from tests.sweep.reporting.trials import Page, grid, make_run, record, write_page

ROOT = Path(__file__).parents[3]
ERROR = "ValueError: loss: got nan; lower lr"
FAILURE = {"event": "failed", "trial": "f00", "time_ms": 5, "config": {"seed": 7}, "error": ERROR}
CLAIMS = """
claims:
  - name: S beats L at sigma 0.1
    kind: superiority
    metric: test/linear/paper/accuracy
    first: {student: width:1}
    second: {student: width:4}
    where: {arm: clean}
"""


@pytest.fixture
def undrawn(monkeypatch):
    """Panels without their pictures, for tests of words and numbers."""
    monkeypatch.setattr("sweep.reporting.page.as_svg", lambda name, draw: "<svg></svg>")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report") / "my-grid", grid(), [FAILURE])


@pytest.fixture(scope="module")
def html(run):
    """A whole page, drawn once for all tests that only look at it."""
    return write_page(run).read_text()


def page_of(folder, *others, **options):
    return Page(write_page(folder, *others, out=folder / "page.html", **options).read_text())


def test_all_figures_groups_and_failures_are_there(html):
    page = Page(html)
    assert page.figures() == [name for name in FIGURES if name != "fourier"] + ["fourier"]
    rows = [tuple(cell.strip() for cell in row[:2]) for row in page.rows]
    for student in ("width:1", "width:4"):
        assert {(student, "clean"), (student, "noise:0.1")} <= set(rows)
    assert any(row[0] == "f00" and row[-1] == ERROR for row in page.rows)
    assert "width:1 · clean" in page.words("Effective rank: width:1")
    (trial,) = [row for row in page.rows if "width:1-noise:0.1-1-" in row]
    accuracy = record("width:1", "noise:0.1", 1)["metrics"]["test/linear/paper/accuracy"]
    assert trial[:3] == ["width:1", "noise:0.1", "1"]
    assert f"{100 * accuracy:.2f}" in trial
    for i, arm in enumerate(("clean", "noise:0.1")):
        button = rf'data-series="series{i}"[^>]*><span class="key k{i}"></span>{arm}</button>'
        assert re.search(button, html)
    for text in ("my-grid", "1,438", "811,264", "below 0.5", "Does capacity or augmentation"):
        assert text in page.text


def test_the_page_loads_nothing_and_is_small(html):
    page = Page(html)
    assert not page.tags & {"link", "iframe", "object", "img"}
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?://|@import|url\((?!#)|fetch\(|import\(", html)
    assert len(html) < 2e6
    assert len(set(re.findall(r' id="([^"]+)"', html))) == len(re.findall(r' id="([^"]+)"', html))


def test_pictures_have_text_words_and_colours_of_both_schemes(html):
    assert 'data-tooltip="width:1 · clean, seed 0: ' in html
    assert "stroke: var(--c0)" in html
    assert "#0072b2" not in html.partition("</style>")[2]
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_numbers_in_the_page_are_those_of_the_study(undrawn, tmp_path):
    folder = make_run(tmp_path / "r", [record(seed=seed) for seed in range(4)])
    values = 100 * load(folder).trials["test/linear/paper/accuracy"].to_numpy()
    expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    page = page_of(folder)
    assert any(cell == expected for row in page.rows for cell in row)
    assert any(value and "n = 4" in value for name, value in page.attributes if name == "data-tip")
    assert "cannot give a p below 0.125" in page.text


def test_a_mean_of_censored_values_is_shown_as_a_bound(undrawn, tmp_path):
    half = "test/noise/pixel/half"
    records = [record(student, seed=seed) for student in ("width:1", "width:4") for seed in (0, 1)]
    values = {half: 0.2}, {f"{half}/above": 0.5}, {f"{half}/above": 0.5}, {f"{half}/above": 0.5}
    for one, own in zip(records, values, strict=True):
        one["metrics"] |= own
        one["teacher"] |= {f"{half}/above".replace("test/", "teacher/"): 0.5}
    page = page_of(make_run(tmp_path / "r", records))
    (row,) = [row for row in page.rows if row[0] == half.removeprefix("test/")]
    assert row[2:] == ["> 0.5000", "> 0.3500", "> 0.5000"]
    assert any("1 of 2 values only a bound" in (v or "") for _, v in page.attributes)


def test_one_seed_has_no_deviations_and_no_dashes_for_them(undrawn, tmp_path):
    page = page_of(make_run(tmp_path / "r", [record(), record("width:4")]))
    assert "±" not in page.text
    (row,) = [row for row in page.rows if row[0] == "width:1" and "811,264" in row]
    assert "\u2013" not in row


def test_verdicts_are_shown_with_their_evidence(undrawn, run):
    study = load(run)
    verdicts = verdicts_of_trials(read_claims(CLAIMS, "here"), study.trials, study.curves)
    page = Page(render(study, "t", verdicts=verdicts))
    difference = 100 * verdicts[0].evidence.contrast.estimate
    assert "S beats L at sigma 0.1" in page.text
    assert words.title(verdicts[0]) == "undecidable at this n"
    assert words.title(verdicts[0]) in page.text
    assert f"{difference:+.1f} points [" in page.text
    assert words.evidence(verdicts[0]) in page.text
    assert "; ".join(words.details(verdicts[0])) in page.text


def test_figures_group_by_the_axis_that_varies(undrawn, tmp_path):
    records = [record(seed=i, objective=o) for o in ("cosine", "mse") for i in range(2)]
    page = page_of(make_run(tmp_path / "r", records))
    assert len(page.figures()) == len(set(page.figures()))
    words = page.words("Effective rank: cosine")
    assert words.startswith("Effective rank: cosine 0.6, mse 0.6; Accuracy on clean images")
    both = [record(s, seed=0, objective=o) for s in ("width:1", "width:4") for o in ("a", "b")]
    folder = make_run(tmp_path / "both", both)
    assert "width:1" in page_of(folder).titles
    assert {"a", "b"} <= set(page_of(folder, by="student").titles)
    with pytest.raises(ValueError, match="--by arm: does not vary in this study; varying: student"):
        write_page(folder, by="arm")


def test_columns_sort_by_numbers_and_not_by_how_they_are_written(undrawn, tmp_path):
    failed = FAILURE | {"config": record(batch_size=2048)["config"]}
    records = [record(batch_size=size) for size in (64, 1024)]
    page = page_of(make_run(tmp_path / "r", records, [failed]))
    sorts = {value for name, value in page.attributes if name == "data-sort"}
    assert {"64", "1024", "2048"} <= sorts


def test_numbers_that_may_not_be_compared_never_share_a_panel(undrawn, tmp_path):
    records = [record(), record(teacher="open_clip:ViT-B-32:none") | {"weights_sha256": "8" * 64}]
    fewer = record("width:1", seed=3)
    fewer["data"] = fewer["data"] | {"test": 100}
    page = page_of(make_run(tmp_path / "r", [*records, fewer]))
    ranks = [title for title in page.titles if title.endswith("Effective rank")]
    assert sorted(ranks) == [
        "embedded, N 100: Effective rank",
        "embedded, N 359: Effective rank",
        "open_clip:ViT-B-32:none, N 359: Effective rank",
    ]
    assert "RANDOM WEIGHTS: open_clip:ViT-B-32:none" in page.text


def test_runs_of_other_recipes_stand_apart_and_others_are_pooled(undrawn, tmp_path):
    first = make_run(tmp_path / "one", [record(seed=i) for i in range(2)])
    more = make_run(tmp_path / "two", [record(seed=i) for i in (2, 3)])
    longer = make_run(tmp_path / "three", [record(seed=i, epochs=30) for i in range(2)])
    pooled = page_of(first, more)
    assert any("n = 4" in (v or "") for n, v in pooled.attributes if n == "data-tip")
    apart = page_of(first, longer)
    assert "These runs differ in epochs" in apart.text
    assert [title for title in apart.titles if title.endswith("Effective rank")] == [
        "one: Effective rank", "three: Effective rank"
    ]  # fmt: skip


def test_runs_of_one_name_are_told_apart_by_their_folders(undrawn, tmp_path):
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
    runs = [
        make_run(tmp_path / name, [record(seed=i, lr=lr) for i in range(2)])
        for name, lr in (("x/full", 0.1), ("y/full", 0.01), ("z", 0.001))
    ]
    page = page_of(*runs)
    ranks = [title for title in page.titles if title.endswith("Effective rank")]
    names = ["x/full", "y/full", "z"]
    assert ranks == [f"{name}: Effective rank" for name in names]
    assert f"Report · {' + '.join(names)}" in page.text
    assert short_names(["full", "a/full/"]) == {"full": "full", "a/full/": "a/full"}


def test_a_pair_of_teachers_from_two_runs_stands_side_by_side(undrawn, tmp_path):
    clip = make_run(tmp_path / "clip", [record(seed=i, teacher="clip") for i in range(2)])
    other = [record(seed=i, teacher="dino") | {"weights_sha256": "8" * 64} for i in range(2)]
    page = page_of(clip, make_run(tmp_path / "dino", other))
    ranks = [title for title in page.titles if title.endswith("Effective rank")]
    assert ranks == ["clip: Effective rank", "dino: Effective rank"]
    assert not any("n = 4" in (v or "") for n, v in page.attributes if n == "data-tip")


def test_runs_with_other_student_inputs_stand_apart(undrawn, tmp_path):
    native = make_run(tmp_path / "native", [record(seed=i, input="native") for i in range(2)])
    resized = make_run(tmp_path / "resized", [record(seed=i, input="teacher") for i in range(2)])
    page = page_of(native, resized)
    ranks = [title for title in page.titles if title.endswith("Effective rank")]
    assert len(ranks) == 2
    assert not any("n = 4" in (v or "") for n, v in page.attributes if n == "data-tip")


def test_a_clean_arm_with_fewer_views_needs_no_column_of_views(undrawn, tmp_path):
    records = [record(), record(arm="noise:0.1")]
    records[0]["config"]["views"] = 1
    page = page_of(make_run(tmp_path / "r", records))
    assert [cell.strip() for cell in page.rows[0][:2]] == ["arm", "n"]


def test_the_papers_table_stands_beside_comparable_values(undrawn, tmp_path):
    fields = {"dataset": "cifar10", "teacher": "open_clip:ViT-B-32:openai", "input": "teacher"}
    records = [record(s, seed=i, **fields) for s in ("width:1", "width:4") for i in range(3)]
    page = page_of(make_run(tmp_path / "r", records))
    (published,) = [row for row in page.rows if row[:3] == ["width:1", "clean", "paper"]]
    # Its rank is that of the mean spectrum; the mean of the seeds' ranks is not published.
    assert published[4:8] == ["15.91", "\u2013", "19.0", "71.11 ± 0.54"]  # 0.44 sqrt(3/2)
    values = [one["metrics"]["test/linear/paper/accuracy"] for one in records[:3]]
    own = page.rows[page.rows.index(published) + 1]
    assert own[7].startswith(f"{100 * np.mean(values):.2f} ± ")
    spectra = [one["arrays"]["test/spectrum"] for one in records[:3]]
    assert own[4] == f"{rank_of_mean_spectrum(spectra):.2f}"
    assert "epochs 12 (paper: 5)" in page.text
    assert "Table I" not in page_of(make_run(tmp_path / "digits", [record()])).text


PAPERS = {"dataset": "cifar10", "teacher": "open_clip:ViT-B-32:openai", "input": "teacher"}


def own_row(page, student="width:1"):
    """The row below the published one."""
    (published,) = [row for row in page.rows if row[:3] == [student, "clean", "paper"]]
    return page.rows[page.rows.index(published) + 1]


@pytest.mark.parametrize("others", [(30, 5), (5, 30)])
def test_the_papers_table_shows_the_papers_own_recipe(undrawn, tmp_path, others):
    """Whichever comes first; the note is of the values that are shown."""
    records = [record(seed=i, epochs=e, **PAPERS) for e in others for i in range(2)]
    page = page_of(make_run(tmp_path / "r", records))
    five = [r for r in records if r["config"]["epochs"] == 5]
    values = [100 * r["metrics"]["test/linear/paper/accuracy"] for r in five]
    assert own_row(page)[7].startswith(f"{np.mean(values):.2f} ± ")
    assert "(paper: 5)" not in page.text
    assert "data.test 359 (paper: 10000)" in page.text
    # A group that comes first, but is further from the paper, is not shown.
    small = [record(seed=i, epochs=5, batch_size=32, **PAPERS) for i in range(2)]
    page = page_of(make_run(tmp_path / "small", [*small, *five]))
    assert "batch_size" not in page.text.partition("s recipe in")[2].partition("Rank and")[0]


def test_the_papers_table_is_of_the_papers_resolution(undrawn, tmp_path):
    runs = [
        make_run(tmp_path / side, [record(seed=i, **PAPERS | {"input": side}) for i in range(2)])
        for side in ("native", "teacher")
    ]
    page = page_of(*runs)
    assert "s recipe in epochs 12 (paper: 5)" in page.text
    assert "native (paper: teacher)" not in page.text


@pytest.mark.parametrize(
    "other",
    [
        *({"target": "pca:20"}, {"precision": "bf16"}, {"ema": 0.9}, {"clip_norm": 0.5}),
        *({"accumulate": 2}, {"validation_samples": 100}, {"warmup": "1 epochs"}),
    ],
)
def test_the_papers_table_prefers_the_papers_recipe_in_every_field(tmp_path, other):
    """The other recipe comes first; the paper's is not written out in results of old versions."""

    def shown(name, *records):
        return published_table(material_of(load(make_run(tmp_path / name, records))))

    apart, paper = (record(epochs=5, **PAPERS, **more) for more in (other, {}))
    value = 100 * paper["metrics"]["test/linear/paper/accuracy"]
    apart["metrics"]["test/linear/paper/accuracy"] = 0.125
    table = shown("both", apart, paper)
    assert table.rows[3][7].text == f"{value:.2f}"
    assert "in data.test 359 (paper: 10000); data.train 1438 (paper: 50000)." in table.note
    ((name, setting),) = other.items()
    assert f"{name} {setting} (paper: " in shown("other", apart).note


def test_of_recipes_that_are_equally_near_the_paper_the_one_shown_is_named(undrawn, tmp_path):
    records = [record(epochs=5, target=target, **PAPERS) for target in ("pca:20", "whitened")]
    text = page_of(make_run(tmp_path / "r", records)).text
    assert "Of equally near ones the first is shown: of 2 groups pca:20." in text
    assert "equally near" not in page_of(make_run(tmp_path / "one", records[:1])).text


def test_groups_of_several_recipes_are_named_each_with_its_own(undrawn, tmp_path):
    records = [record(epochs=5, **PAPERS), record("width:4", epochs=30, **PAPERS)]
    text = page_of(make_run(tmp_path / "r", records)).text
    found = re.search(r"s recipe: S: ([^.]*)[.\d; ].*? L: epochs 30 \(paper: 5\)", text)
    assert found
    assert "epochs" not in found[0].partition(" L: ")[0]


def test_the_rank_of_a_mean_spectrum_counts_the_spectra_it_has(undrawn, tmp_path):
    records = [record(seed=i, epochs=5, **PAPERS) for i in range(3)]
    del records[1]["arrays"]["test/spectrum"]
    page = page_of(make_run(tmp_path / "r", records))
    assert own_row(page)[4].endswith("(n = 2)")


# ---- whole designs ----


def test_designs_have_a_table_each(undrawn, tmp_path):
    records = [record(s, a, i) for s in ("width:1", "width:4") for a in ("clean", "noise:0.1")
               for i in range(3)]  # fmt: skip
    diverged = {"event": "failed", "trial": "d00", "time_ms": 5, "error": "diverged at step 3"}
    diverged |= {"config": record("width:4", "clean", 3)["config"]}
    page = page_of(make_run(tmp_path / "r", records, [diverged]))
    for title in ("Two factors and their interaction", "Students less their teacher",
                  "Rank where the fit is the same"):  # fmt: skip
        assert title in page.text
    study = load(tmp_path / "r")
    found = two_way(study.trials, "test/rank/effective", "arm", "student").sources
    (row,) = [r for r in page.rows if r[:2] == ["effective rank", "student x arm"]]
    interaction = next(source for source in found if source.name == "arm x student")
    assert row[2:5] == [f"{interaction.f:.2f}", "1, 8", f"{interaction.p:.3f}"]
    own = study.trials[(study.trials["student"] == "width:1") & (study.trials["arm"] == "clean")]
    gap = less_teacher(own, "rank/effective")
    cell = f"{gap.mean:.2f} ± {gap.sd:.2f}".replace("-", "\u2212")
    assert any(row[3:4] == [cell] and row[:2] == ["width:1", "clean"] for row in page.rows)
    assert "Left out: width:4 · clean: 1 diverged." in page.text
    assert "Left out: 1 diverged." in page.text
    (matched, *_) = [row for row in page.rows if row[3:5] == ["0.500", "9.00 ± 0.00"]]
    assert matched[5] == "7.00 ± 0.00"


@pytest.mark.parametrize("others", [1.0, 0.5])
def test_a_diverged_trial_is_left_out_of_its_own_group_by_value(undrawn, tmp_path, others):
    """0.0 and 1.0 of finished trials are shown as 0 and 1."""
    records = [record(seed=i, clip_norm=value) for value in (0.0, others) for i in range(3)]
    diverged = {"event": "failed", "trial": "d00", "time_ms": 5, "error": "diverged at step 3"}
    diverged |= {"config": record(seed=3, clip_norm=others)["config"]}
    page = page_of(make_run(tmp_path / "r", records, [diverged]))
    assert f"Left out: {others:g}: 1 diverged." in page.text


def lost(student, seed, arm="clean", **config):
    """The event of a trial that diverged."""
    fields = record(student, arm, seed, **config)["config"]
    name = "-".join(map(str, ("lost", student, arm, seed, *config.values())))
    return {"event": "failed", "trial": name, "time_ms": 5, "config": fields,
            "error": "diverged at step 3"}  # fmt: skip


def with_more_probes(records):
    """The same results, with those of a further probe."""
    for one in records:
        parts = {part: one.pop(part) for part in ("metrics", "teacher", "arrays")}
        probe = {"version": 1, "undefined": []}
        further = {"metrics": {"test/knn/accuracy": 0.5}, "teacher": {}, "arrays": {}}
        one["probes"] = {"any": probe | parts, "further": probe | further}
    return records


def test_a_value_without_any_result_costs_no_other_one_its_tables(undrawn, tmp_path):
    sizes, arms = ("width:1", "width:4"), ("clean", "noise:0.1")
    records = [record(s, a, i) for s in sizes for a in arms for i in range(3)]
    diverged = [lost(s, i, a, lr=1.0) for s in sizes for a in arms for i in range(3)]
    page = page_of(make_run(tmp_path / "r", records, diverged))
    whole = page_of(make_run(tmp_path / "whole", records))
    keys = {(s, a, "3") for s in sizes for a in arms}
    shown = [row for row in page.rows if tuple(row[:3]) in keys]
    assert shown == [row for row in whole.rows if tuple(row[:3]) in keys]
    assert "Two factors and their interaction" in page.text
    assert page.text.count("Left out: combinations without a result: 12 diverged.") == 2
    assert ["trial", "arm", "student", "lr", "seed", "status", "error"] in page.rows
    assert any(
        row[:4] == ["lost-width:4-clean-2-1.0", "clean", "width:4", "1"] for row in page.rows
    )


def test_a_lost_trial_counts_in_its_own_run(undrawn, tmp_path):
    one, two = (
        make_run(tmp_path / name, [record(s, seed=i, lr=lr) for s in ("width:1", "width:4")
                                   for i in range(3)], events)
        for name, lr, events in (("A", 0.1, ()), ("B", 0.01, [lost("width:1", 3, lr=0.01)]))
    )  # fmt: skip
    alone, page = page_of(one), page_of(one, two)
    rows = [row for row in alone.rows if row[:2] == ["width:1", "3"]]
    (gaps,) = [row for row in rows if row[2].startswith("\u2212")]
    assert ["A", *gaps] in page.rows
    assert "Left out: width:1: 1 diverged." in page.text
    # Runs that differ in their probes alone stand apart too.
    more = with_more_probes([record("width:1", seed=i, lr=0.1) for i in (5, 6)])
    two = make_run(tmp_path / "C", more, [lost("width:1", 9, lr=0.1)])
    assert "Left out: width:1: 1 diverged." in page_of(two, one).text
    assert ["A", *gaps] in page_of(two, one).rows


def test_runs_of_other_probes_differ_also_beside_a_lost_trial(undrawn, tmp_path):
    one = make_run(tmp_path / "A", [record(seed=i) for i in range(2)])
    more = with_more_probes([record(seed=i) for i in (5, 6)])
    two = make_run(tmp_path / "B", more, [lost("width:1", 9)])
    assert "These runs differ in probe_versions, so each has panels" in page_of(one, two).text


def test_a_table_that_lost_trials_have_cost_is_said(undrawn, tmp_path):
    sizes, arms = ("width:1", "width:4"), ("clean", "noise:0.1")
    whole = [record(s, a, i) for s in sizes for a in arms for i in range(3)]
    cell = [lost("width:4", i, "noise:0.1") for i in range(3)]
    text = page_of(make_run(tmp_path / "cell", whole[:9], cell)).text
    assert "There is no analysis of student and arm, as trials have no result: test/" in text
    assert "9 values in 3 of 4 cells" in text
    row = [lost(s, i, "noise:0.1") for s in sizes for i in range(3)]
    clean = [one for one in whole if one["config"]["arm"] == "clean"]
    text = page_of(make_run(tmp_path / "row", clean, row)).text
    assert "as trials have no result: one value of arm alone has results." in text
    assert "no analysis" not in page_of(make_run(tmp_path / "never", whole[:9])).text


def test_a_design_with_an_empty_cell_or_one_factor_has_no_table_of_two(undrawn, tmp_path):
    three = [record(s, a, i) for s, a in (("width:1", "clean"), ("width:4", "clean"),
             ("width:4", "noise:0.1")) for i in range(2)]  # fmt: skip
    assert "Two factors" not in page_of(make_run(tmp_path / "three", three)).text
    one = [record(s, seed=i) for s in ("width:1", "width:4") for i in range(2)]
    assert "Two factors" not in page_of(make_run(tmp_path / "one", one)).text


def test_the_banner_of_few_steps_agrees_with_the_curves(undrawn, tmp_path):
    unseen = "were not observed closely enough in all"
    moving = [record(seed=i) for i in range(2)]
    assert unseen in page_of(make_run(tmp_path / "sparse", moving)).text  # at 0, 10 and 20 steps
    for one in moving:
        values = {"rank/effective": 6.0, "cosine_to_teacher": 0.5}
        one["observations"]["rows"].append({"step": 30, "epoch": 3, "values": values})
    text = page_of(make_run(tmp_path / "moving", moving)).text
    assert "Not all ranks had settled (they moved by at most 10.0% in the last fifth" in text
    settled = moving
    for one in settled:
        for row in one["observations"]["rows"]:
            row["values"]["rank/effective"] = 9.0
    text = page_of(make_run(tmp_path / "settled", settled)).text
    assert "Their ranks had settled (they moved by at most 0.0% in the last fifth" in text
    for one in settled:
        one["observations"] = {"rows": [], "teacher": {}}
    assert unseen in page_of(make_run(tmp_path / "unseen", settled)).text


def test_values_of_probes_during_training_stand_above_those_of_the_end(undrawn, tmp_path):
    probed = [record(arm=arm, seed=i) for arm in ("clean", "noise:0.1") for i in range(2)]
    for one in probed[:2]:
        for row in one["observations"]["rows"][:2]:
            row["values"]["test/rank/effective"] = 5.0 + row["epoch"] + one["config"]["seed"]
    page = page_of(make_run(tmp_path / "probed", probed))
    rows = page.rows[next(i for i, row in enumerate(page.rows) if row[1:2] == ["epoch"]) :]
    ends = [one["metrics"]["test/rank/effective"] for one in probed[:2]]
    assert [row[:4] for row in rows[1:4]] == [
        ["clean", "0", "2", "5.50 ± 0.71"],
        ["clean", "1", "2", "6.50 ± 0.71"],
        ["clean", "3", "2", f"{np.mean(ends):.2f} ± {np.std(ends, ddof=1):.2f}"],
    ]
    plain = page_of(make_run(tmp_path / "plain", probed[2:]))
    assert all("epoch" not in row for row in plain.rows)


def test_the_first_figure_shows_the_noise_of_the_claims(undrawn, run):
    study = load(run)
    text = CLAIMS.replace("test/linear/paper", "test/noise/pixel/0.2")
    verdicts = verdicts_of_trials(read_claims(text, "here"), study.trials, study.curves)
    words = Page(render(study, "t", verdicts=verdicts)).words("Effective rank: width:1")
    assert "Accuracy under pixel noise 0.2" in words
    assert "Accuracy under pixel noise 0.1" not in words


def test_names_are_escaped_everywhere(tmp_path):
    evil = '<script>alert("$x_1$")</script>'
    failure = {"event": "failed", "trial": evil, "config": {"arm": evil}, "error": evil}
    records = [record(arm=evil), record("width:4", evil), record(dataset=evil, objective=evil)]
    for one in records:
        one["metrics"] = {n: v for n, v in one["metrics"].items() if "rank" in n}
        one["arrays"] = {}
    records[0]["metrics"]["test/" + evil] = 1.0
    records[0]["environment"] = {"device": evil}
    text = write_page(make_run(tmp_path / "a<b>", records, [failure])).read_text()
    assert text.count("<script") == 1
    assert evil in Page(text).text


def test_bare_records_make_a_page(undrawn, tmp_path):
    bare = record()
    for name in ("teacher", "arrays", "epochs", "observations"):
        del bare[name]
    bare["metrics"] = {"test/knn/accuracy": 0.5}
    page = page_of(make_run(tmp_path / "r", [bare]))
    assert page.figures() == []
    assert "no values for any figure" in page.text
    assert any("50.0" in cell for row in page.rows for cell in row)


def test_unsteady_teachers_unequal_seeds_and_few_steps_are_said(undrawn, tmp_path):
    records = [record(seed=0), record(seed=1), record("width:2", seed=0)]
    records[1]["teacher"]["teacher/linear/paper/accuracy"] = 0.5
    text = page_of(make_run(tmp_path / "r", records)).text
    assert "do not all have the same seeds" in text
    assert "teacher/linear/paper/accuracy" in text
    assert "Few training steps: 30." in text


@pytest.mark.parametrize(("size", "said"), [("native", True), ("teacher", False)])
def test_a_report_says_where_noise_acts(undrawn, size, said, tmp_path):
    page = page_of(make_run(tmp_path / "r", [record(input=size)]))
    assert ("not comparable with theirs" in page.text) is said


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_figures_are_written_as_files(tmp_path, ending):
    one = record()
    one["arrays"], one["observations"] = {}, {"rows": [], "teacher": {}}
    one["metrics"] = {n: v for n, v in one["metrics"].items() if n == "test/rank/effective"}
    material = material_of(load(make_run(tmp_path / "r", [one])))
    paths = save_figures(material, tmp_path / "figures", ending)
    assert [path.name for path in paths] == [f"{n}.{ending}" for n in ("glance", "rank", "loss")]
    first = paths[0].read_bytes()
    assert first[:5] in (b"<?xml", b"\x89PNG\r", b"%PDF-")
    assert save_figures(material, tmp_path / "again", ending)[0].read_bytes() == first


@pytest.mark.thorough
def test_two_writes_are_byte_equal_in_two_processes(tmp_path):
    one = record()
    one["metrics"] = {n: v for n, v in one["metrics"].items() if "rank" in n}
    folder = make_run(tmp_path / "r", [one])
    first = write_page(folder).read_bytes()
    other = tmp_path / "other.html"
    assert command(folder, "--out", other).returncode == 0
    assert other.read_bytes() == first
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


def command(*arguments):
    line = [sys.executable, "-m", "sweep.report", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m sweep.report runs/demo" in capsys.readouterr().out


def test_errors_are_one_line_and_exit_2(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "absent")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "absent: no such folder" in line


@pytest.mark.parametrize(
    "text", ["", '{"event": "failed", "trial": "a", "config": {}, "error": "x", "time_ms": 1}\n']
)
def test_a_run_without_results_is_refused(tmp_path, capsys, text):
    (tmp_path / "journal.jsonl").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "0 results" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("run", ["s3://bucket/store", "sqlite:///{}/absent.db#experiment"])
def test_a_store_without_a_place_for_its_report_is_refused_unread(
    run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nothing can be read
    with pytest.raises(SystemExit, match="2"):
        main([run.format(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not a folder, so the report needs a place: --out FILE")
    with pytest.raises(ValueError, match="needs a place"):
        report(run.format(tmp_path))


def test_an_unwritable_target_is_one_line(undrawn, tmp_path, capsys):
    folder = make_run(tmp_path / "r", [record()])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main([str(folder), "--out", str(tmp_path / "file" / "x.html")])
    assert "file" in capsys.readouterr().err.splitlines()[-1]


def test_json_prints_rows_and_writes_nothing(tmp_path, capsys):
    folder = make_run(tmp_path / "r", [record()])
    with pytest.raises(SystemExit, match="0"):
        main([str(folder), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["teacher", "student"]
    assert not (folder / "report.html").exists()


def test_cost_and_provenance_come_from_the_plan(undrawn, tmp_path):
    records = [record(seed=i) for i in range(2)]
    starts = [
        {"event": "start", "trial": one["id"], "time_ms": 1, "config": one["config"]}
        for one in records
    ]
    lines = [json.loads(json.dumps(result_line(one) | {"time_ms": 61_001})) for one in records]
    folder = write_journal(tmp_path / "r", [*starts, *lines])
    plan = {"started_ms": 1, "commit": "c" * 40, "version": "0.1.0", "wall_seconds": 30.0}
    plan["trial_seconds"] = {one["id"]: 20.0 for one in records}
    plan |= {"hours": 0.02, "money": 0.06, "device": "NVIDIA L4", "currency": "USD"}
    plan |= {"price": 2.0, "trial_shares": {one["id"]: 1.0 for one in records}}
    (folder / "plan.json").write_text(json.dumps({"starts": [plan]}))
    page = page_of(folder)
    assert ["width:1", "2", "61.0 ± 0.0", "20.0", "3.05", "0.03"] in page.rows
    assert "took 1 min 01 s of wall time; the plan said 30 s (2.0 times as long)" in page.text
    assert "trials took 0.0339 where 0.0111 were planned, about 0.07 against 0.02 USD" in page.text
    assert "c" * 40 in page.text
    assert "1970-01-01" in page.text
    # Of four GPUs each; `money` has more than they cost.
    plan["trial_shares"] = {one["id"]: 4.0 for one in records}
    (folder / "plan.json").write_text(json.dumps({"starts": [plan]}))
    text = page_of(folder).text
    assert "trials took 0.136 where 0.0444 were planned, about 0.27 against 0.09 USD" in text
    earlier = {n: v for n, v in plan.items() if n not in ("price", "trial_shares")}
    (folder / "plan.json").write_text(json.dumps({"starts": [earlier]}))
    text = page_of(folder).text
    assert "as long). With building, start and set-up the plan was 0.02 GPU-hours" in text
    assert "trials took" not in text
    # Hours of several kinds of device are no one sum.
    (folder / "plan.json").write_text(json.dumps({"starts": [plan]}))
    devices = [{"environment": {"device": device}} for device in ("cpu", "NVIDIA L4")]
    mixed = [
        result_line(one | d) | {"time_ms": 61_001} for one, d in zip(records, devices, strict=True)
    ]
    page = page_of(write_journal(tmp_path / "r", [*starts, *mixed]))
    for device in ("cpu", "NVIDIA L4"):
        assert ["width:1", device, "1", "61.0", "20.0", "3.05", "0.02"] in page.rows
    assert "trials took" not in page.text
    # A day in which a trial lay still is in none of its hours.
    again = starts[0] | {"time_ms": 86_400_001}
    resumed = [*starts, again, lines[0] | {"time_ms": 86_461_001}, lines[1]]
    page = page_of(write_journal(tmp_path / "r", resumed))
    assert ["width:1", "2", "61.0 ± 0.0", "20.0", "3.05", "0.03"] in page.rows
    write_journal(tmp_path / "r", [*starts, *lines])
    # A plan of the first trials of a search is no plan of all of them.
    plan["trial_seconds"] = {records[0]["id"]: 20.0}
    (folder / "plan.json").write_text(json.dumps({"starts": [plan]}))
    text = page_of(folder).text
    assert "took 1 min 01 s of wall time" in text
    assert "the plan said" not in text
