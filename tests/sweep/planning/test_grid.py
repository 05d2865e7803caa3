"""Grids: what they multiply out to, and one clear line for everything that is wrong."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from sweep.grids import named_grids, summaries
from sweep.options import GRID_FILE
from sweep.planning.calibration import write_calibration
from sweep.planning.expand import expand, expand_with_resources, notes_on_exclude
from sweep.planning.grid import load_grid, read_grid
from sweep.planning.settings import override
from sweep.run import main
from tests.calibrated import calibrated

HEAD = "fixed: {dataset: digits, teacher: embedded, student: width:1}\n"


def trials(text: str):
    return expand(read_grid(text, "mine.yaml", "mine"))


COUNTS = {
    "demo": 40, "paper": 12, "full": 120, "controls": 215, "quick": 36, "expansion": 108,
    "objectives": 280,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_the_named_grids_load(name: str, count: int) -> None:
    found = expand(load_grid(name))
    assert len(found) == count
    assert len({config.identity for config in found}) == count
    assert named_grids().keys() == COUNTS.keys()
    # What one wants to know before it is started.
    summary = summaries()[name]
    assert re.search(r"Hardware: .*Time: [\d,.]+ core-hours", summary, re.DOTALL), summary
    assert "laims" in summary


def test_paper_grid_is_nine_clean_and_three_augmented() -> None:
    found = [(c.student, c.arm, c.seed) for c in expand(load_grid("paper"))]
    assert sum(arm == "clean" for _, arm, _ in found) == 9
    augmented = [entry for entry in found if entry[1] != "clean"]
    assert augmented == [("width:4", "crop_flip:4", seed) for seed in (42, 123, 456)]


REFUSED = {
    "axs: {}\n": ["unknown key `axs`", "did you mean `axes`"],
    HEAD + "axes: {lrr: [0.1]}\n": ["unknown field `lrr`", "did you mean `lr`"],
    HEAD + "axes: {learnin_rate: [0.1]}\n": ["unknown field `learnin_rate`", "did you mean `lr`"],
    HEAD.replace("student", "studnt"): ["unknown field `studnt`", "did you mean `student`"],
    HEAD + "exclude: [{amr: clean}]\n": ["unknown field `amr`", "did you mean `arm`"],
    HEAD + "exclude: [arm]\n": ["exclude", "{field: value, ...}", "`arm`"],
    HEAD + "exclude: [{}]\n": ["exclude", "{field: value, ...}"],
    HEAD + "exclude: [{student: widht:1}]\n": ["mine.yaml: exclude: unknown student `widht`"],
    HEAD + "exclude: [{arm: clean}, {lr: fast}]\n": ["mine.yaml: exclude: lr", "'fast'"],
    HEAD + "exclude: [{seed: [0, 1]}]\n": ["mine.yaml: exclude: seed", "valid integer", "[0, 1]"],
    HEAD + "exclude: [{precision: auto}]\n": ["mine.yaml: exclude: precision", "'auto'"],
    HEAD + "exclude: [{temperature: 0.0}]\n": ["exclude: temperature", "greater than 0"],
    HEAD + "exclude: [{target: pca:x}]\n": ["mine.yaml: exclude: target: `pca:x`"],
    HEAD + "exclude: [{objective: mse+mse}]\n": ["mine.yaml: exclude: objective", "a term twice"],
    HEAD + "parts: [{exclude: [{arm: cleen}]}]\n": ["part 1: exclude: unknown arm", "`clean`"],
    HEAD + "first: [{arm: cleen}]\n": ["mine.yaml: first: unknown arm `cleen`", "`clean`"],
    HEAD + "first: [{seed: -1}]\n": ["mine.yaml: first: seed", "equal to 0", "-1"],
    HEAD + "axes: {arm: [no]}\n": ["unknown arm `no`"],
    HEAD + "axes: {lr: [0.1]}\nseeds: 1\nseeds: 2\n": ["`seeds`", "line 3", "line 4"],
    HEAD + "axes: {lr: []}\n": ["axes.lr", "0 trials"],
    HEAD + "axes: {lr: 0.1}\n": ["axes.lr", "list", "`0.1`"],
    HEAD + "axes: [lr]\n": ["axes", "expected `field: value` lines"],
    HEAD + "axes: {student: [width:2]}\n": ["`student` is both fixed and an axis"],
    HEAD + "axes: {seed: [1]}\n": ["`seed` is given by `seeds`"],
    HEAD + "seeds: 0\n": ["seeds", "at least 1", "found 0"],
    HEAD + "seeds: [1, 1]\n": ["seeds", "distinct", "[1, 1]"],
    HEAD + "seeds: [-1]\n": ["seeds", "[-1]"],
    HEAD + "seeds: true\n": ["seeds", "True"],
    HEAD + "seeds: 1000000000000\n": ["1,000,000,000,000 trials > limit of 10,000"],
    HEAD + "exclude: [{dataset: digits}]\n": ["0 trials", "excluded"],
    HEAD + f"axes: {{epochs: {list(range(1000))}}}\nseeds: 1000\n": [
        "1,000,000 trials > limit of 10,000"
    ],
    "fixed: !!python/object/apply:os.system ['true']\n": ["line 1", "python"],
    HEAD + "axes: {lr: &a [0.1], epochs: *a}\n": ["line 2", "&a", "refused"],
    HEAD + "name: ../up\n": ["name", "`../up`"],
    HEAD + "axes: {lr: [.nan]}\n": ["lr", "finite"],
    HEAD + "axes: {temperature: [0.0]}\n": ["temperature", "greater than 0"],
    HEAD + "axes: {arm: [nois]}\n": ["unknown arm `nois`", "did you mean `noise`"],
    HEAD + "axes: {engine: [ddp], ranks: [2], batch_size: [65]}\n": ["65", "64 or 66"],
    HEAD + "resources: 2\n": ["resources", "`name: value` lines"],
    HEAD + "resources: {cpu: 2}\n": ["unknown resource `cpu`", "did you mean `cpus`"],
    HEAD + "resources: {cpus: 0}\n": ["resources.cpus: `0`", "above 0"],
    HEAD + "resources: {minutes: .inf}\n": ["resources.minutes: `inf`", "above 0"],
    HEAD + "resources: {minutes: 0}\n": ["resources.minutes: `0`", "above 0"],
    HEAD + "resources: {gpus: 1.5}\n": ["resources.gpus: `1.5`", "from 0 to 1, or a whole one"],
    HEAD + "resources: {placement: apart}\n": ["pack, spread, strict_pack"],
    "": ["key: value"],
    HEAD.replace("width:1", "widht:1"): ["widht"],
}


@pytest.mark.parametrize("text", list(REFUSED))
def test_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        trials(text)
    message = str(error.value)
    assert "\n" not in message
    for part in REFUSED[text]:
        assert part in message


def test_the_grid_file_of_the_help_is_valid() -> None:
    text = textwrap.dedent(GRID_FILE.split("\n", 1)[1].split("\n\n")[0])
    text = re.sub(r"(?m)^plugins:.*\n", "", text)  # there is no such module here
    assert len(trials(text)) == 21  # (2 x 2 - 1) combinations x 3 seeds, x 2 objectives and none


def test_every_named_grid_says_what_it_is_for() -> None:
    assert all(len(summary) > 40 for summary in summaries().values())


def test_unknown_grid_names_the_closest() -> None:
    with pytest.raises(ValueError, match="did you mean `demo`"):
        load_grid("dmo")
    with pytest.raises(ValueError, match=r"no file `none\.yaml`"):
        load_grid("none.yaml")


def test_set_and_seeds_override() -> None:
    grid = override(load_grid("demo"), ["student=width:1", "epochs=2", "lr=0.01"], 2)
    found = expand(grid)
    assert len(found) == 8  # the student axis went, its four treatments and two seeds stay
    assert {(c.student, c.epochs, c.lr) for c in found} == {("width:1", 2, 0.01)}
    assert {c.seed for c in found} == {0, 1}


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("epochs", ["--set FIELD=VALUE"]),
        ("epoch=2", ["unknown field `epoch`", "did you mean `epochs`"]),
        ("seed=2", ["--seeds N"]),
        ("lr=[", ["--set lr=["]),
    ],
)
def test_wrong_overrides(setting: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="--set") as error:
        override(load_grid("demo"), [setting], None)
    assert all(part in str(error.value) for part in parts)
    with pytest.raises(ValueError, match="--seeds"):
        override(load_grid("demo"), [], 0)


def test_exponents_are_numbers_in_files_and_in_overrides() -> None:
    assert [c.lr for c in trials(HEAD + "axes: {lr: [1e-3, 1E-2]}\n")] == [0.001, 0.01]
    assert {c.lr for c in expand(override(load_grid("demo"), ["lr=1e-3"], None))} == {0.001}


def test_two_spellings_are_one_trial() -> None:
    found = trials(HEAD + "axes: {arm: [noise, noise:0.1, noise:0.10]}\nseeds: 2\n")
    assert [(c.arm, c.seed) for c in found] == [("noise:0.1", 0), ("noise:0.1", 1)]


def test_exclusion_knows_spellings_too() -> None:
    found = trials(HEAD + "axes: {arm: [clean, crop_flip]}\nexclude: [{arm: crop_flip:4}]\n")
    assert [c.arm for c in found] == ["clean"]


def test_an_excluded_seed_is_left_out_of_the_matching_trials_alone() -> None:
    text = (
        HEAD.replace(", student: width:1", "") + "axes: {student: [width:1, width:2]}\nseeds: 3\n"
    )
    every = [(f"width:{width}", seed) for width in (1, 2) for seed in range(3)]
    for seed in range(3):
        found = trials(text + f"exclude: [{{student: width:1.0, seed: {seed}}}]\n")
        assert [(c.student, c.seed) for c in found] == [
            trial for trial in every if trial != ("width:1", seed)
        ]
    found = trials(text + "exclude: [{seed: 0}, {student: width:2, seed: 1}]\n")
    assert [(c.student, c.seed) for c in found] == [("width:1", 1), ("width:1", 2), ("width:2", 2)]
    listed = text.replace("seeds: 3", "seeds: [42, 0]")
    found = trials(listed + "exclude: [{student: width:1, seed: 42}]\n")
    assert [(c.student, c.seed) for c in found] == [
        ("width:1", 0), ("width:2", 42), ("width:2", 0)
    ]  # fmt: skip


def test_a_combination_without_a_seed_left_need_not_be_valid() -> None:
    text = HEAD + "axes: {engine: [single, ddp], ranks: [1, 2]}\nseeds: 2\n"
    entries = "{engine: single, ranks: 2, seed: 0}, {engine: single, ranks: 2, seed: 1}"
    assert len(trials(text + f"exclude: [{entries}]\n")) == 6
    with pytest.raises(ValueError, match="ranks"):
        trials(text + "exclude: [{engine: single, ranks: 2, seed: 0}]\n")


UNMATCHED = """\
axes: {student: [width:2, width:4]}
exclude:
  - {student: width:8}
  - {seed: 5}
  - {student: width:4.0, arm: clean}
parts: [{fixed: {lr: 0.1}}, {axes: {student: [width:2]}, exclude: [{epochs: 9}]}]
"""


def test_what_excludes_nothing_or_comes_first_in_vain_is_noted_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, known = tmp_path / "mine.yaml", str(tmp_path / "calibration.yaml")
    first = "first: [{student: width:8}, {seed: 5}, {epochs: 5}]\n"
    grid.write_text(HEAD.replace(", student: width:1", "") + UNMATCHED + first)
    write_calibration(known, calibrated(expand(load_grid(str(grid)))))
    options = ["--out", str(tmp_path / "run"), "--calibration", known, "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        main(["--grid", str(grid), *options])
    assert ended.value.code == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "no trial" in line]
    unmatched = "no trial matches {student: width:8}, {seed: 5}"
    assert notes == [
        f"note:    {grid}: exclude: {unmatched}, {{epochs: 9}}",
        f"note:    {grid}: first: {unmatched}",
    ]


def test_what_excludes_something_is_not_noted() -> None:
    assert notes_on_exclude(load_grid("paper")) == []
    text = HEAD + "axes: {arm: [clean, crop_flip]}\nseeds: 2\n"
    for entry in ("{arm: crop_flip:4}", "{arm: crop_flip:4, seed: 1}", "{seed: 0}"):
        grid = read_grid(text + f"exclude: [{entry}, {entry}]\n", "mine.yaml", "mine")
        assert notes_on_exclude(grid) == []


def test_what_is_excluded_need_not_be_valid() -> None:
    text = HEAD + "axes: {engine: [single, ddp], ranks: [1, 2]}\n"
    with pytest.raises(ValueError, match="ranks"):
        trials(text)
    found = trials(text + "exclude: [{engine: single, ranks: 2}]\n")
    assert [(c.engine, c.ranks) for c in found] == [("single", 1), ("ddp", 1), ("ddp", 2)]


def test_a_new_value_keeps_the_other_trials() -> None:
    before = trials(HEAD + "axes: {arm: [clean, noise]}\nseeds: 2\n")
    after = trials(HEAD + "axes: {arm: [clean, crop_flip, noise], epochs: [5, 6]}\nseeds: 3\n")
    assert {c.identity for c in before} < {c.identity for c in after}


DISTINCT = HEAD + "distinct_views: true\naxes: {arm: [clean, noise]}\n"


@pytest.mark.parametrize(("setting", "views"), [("epochs=10", 5), ("views=1", 1), ("views=4", 4)])
def test_paper_shows_no_view_twice(setting: str, views: int) -> None:
    grid = override(load_grid("paper"), [setting], None)
    epochs = 10 if "epochs" in setting else 5
    with pytest.raises(ValueError, match="grid paper: views") as error:
        expand(grid)
    assert "\n" not in str(error.value)
    assert f"views: {views} of arm crop_flip:4 for {epochs} epochs" in str(error.value)
    more = [f"views={epochs}", f"epochs={epochs}"]
    assert len(expand(override(grid, more, None))) == 12
    assert len(expand(override(grid, ["arm=clean"], None))) == 9  # a clean arm has one view


@pytest.mark.parametrize(
    ("length", "epochs"), [("2.5 epochs", 3), ("100 steps", 5), ("1409 samples", 1)]
)
def test_distinct_views_of_any_duration(length: str, epochs: int) -> None:
    text = DISTINCT + f"parts: [{{fixed: {{duration: {length}, views: %d}}}}]\n"
    for views in (epochs, epochs + 1):
        assert len(trials(text % views)) == 2
    if epochs > 1:
        with pytest.raises(ValueError, match=f"mine.yaml: part 1: views: .* for {epochs} epochs"):
            trials(text % (epochs - 1))


def test_other_grids_may_show_views_again() -> None:
    assert len(trials(DISTINCT.replace("true", "false"))) == 2
    with pytest.raises(ValueError, match="true or false"):
        trials(DISTINCT.replace("true", "1"))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("train_samples: 41, batch_size: 8, duration: 5 samples", "duration: `5 samples`"),
        ("train_samples: 12, batch_size: 8, duration: 0.5 epochs", "duration: `0.5 epochs`"),
        ("train_samples: 41, batch_size: 64", "batch_size: 64 is more than the 41 train samples"),
        ("warmup: 5 epochs, epochs: 5", "warmup: `5 epochs` is "),
        ("curve_every: 0 steps", "curve_every: 0 steps is less than a step"),
        ("train_samples: 41, batch_size: 16, classes: 2", "16 is more than the [89] train samples"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_trials_without_a_step_are_refused_when_planned(
    fields: str,
    fault: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(HEAD + f"parts: [{{fixed: {{{fields}}}}}]\n")
    with pytest.raises(SystemExit) as ended:
        main(["--grid", str(file), "--out", str(tmp_path / "run"), *options])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(fault, line)
    assert not (tmp_path / "run").exists()


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--grid", "demo", "--seed", "5"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--seed 5" in line
    assert "--seeds" in line


def test_resources_are_of_each_trial_and_change_no_identity() -> None:
    text = HEAD + "resources: {cpus: 2, placement: spread}\nparts:\n"
    text += (
        "  - fixed: {epochs: 5}\n  - fixed: {epochs: 3}\n    resources: {gpus: 0.5, cpus: 0.5}\n"
    )
    found = expand_with_resources(read_grid(text, "here", "g"))
    assert [needs for _, needs in found] == [
        {"cpus": 2, "placement": "spread"},
        {"cpus": 0.5, "placement": "spread", "gpus": 0.5},
    ]
    plain = expand(
        read_grid(HEAD + "parts:\n  - fixed: {epochs: 5}\n  - fixed: {epochs: 3}\n", "here", "g")
    )
    assert [config.identity for config, _ in found] == [config.identity for config in plain]


def test_two_values_for_one_field_are_refused_and_the_same_one_is_not() -> None:
    grid = read_grid("fixed: {dataset: digits, teacher: embedded}", "mine", "mine")
    assert override(grid, ["lr=0.1", "lr=1e-1"], None).fixed["lr"] == 0.1
    with pytest.raises(ValueError, match="--set lr=2: lr is set to `1` as well; keep one"):
        override(grid, ["lr=1", "epochs=2", "lr=2"], None)
