"""Parsers of what users write: any text is a value or one line of error; values round-trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from shards.arms import ARMS, make_arm
from shards.arms.groups import GROUPS, expand_arms
from shards.support import storage
from shards.support.command import one_line, without_password
from shards.support.registry import split_spec
from shards.teachers import TEACHERS, check_teacher, untrained
from sweep.journal.mlflow_uri import (
    check_tracking_uri,
    default_uri,
    is_tracking_uri,
)
from sweep.planning.grid import KEYS, read_grid
from trainers.config.durations import canonical_duration, in_steps
from trainers.objectives.targets import TARGETS, canonical_target
from trainers.students import STUDENTS, canonical_student, describe

MANY = settings(max_examples=50)
FEW = settings(max_examples=20)
LONGEST = 2500  # characters: the tags of a teacher with many are all named

# ---- any text ----

ODD = st.sampled_from(
    [
        "",
        "nan",
        "inf",
        "-0",
        "1e999",
        "1_0",
        "٣",
        "²",
        "9" * 400,
        " 1",
        "1\n",
        "\x1b[31m",
        "a\u2028b",
    ]
)
ARGUMENT = st.one_of(
    st.text(max_size=12), ODD, st.from_regex(r"[0-9.:eEKM+-]{1,9}", fullmatch=True)
)
TIMM = ["timm:resnet18", "timm:vit_small_patch14_dinov2.lvd142m"]
CLIP = ["open_clip:ViT-B-32", "open_clip:ViT-B-32:openai@", "open_clip:local-dir"]
CLIP += ["open_clip:hf-hub"]
SCHEMES = ["http", "https", "sqlite", "postgresql", "mysql+pymysql", "mssql", "databricks", "file"]
SCHEMES += ["s3", "gs", "pipe", "ftp", ""]
TRACKING = st.builds(
    "{}:{}{}{}".format,
    st.sampled_from(SCHEMES),
    st.sampled_from(["", "//", "///", "//me:secret@", "//["]),
    ARGUMENT,
    ARGUMENT,
)


def specs(names: list[str]) -> st.SearchStrategy[str]:
    """Texts, most of which begin with the name of an entry."""
    known = st.builds("{}{}{}".format, st.sampled_from(names), st.sampled_from(["", ":"]), ARGUMENT)
    return st.one_of(known, known, st.text(max_size=20))


def one_group(spec: str) -> None:
    expand_arms([spec])


def local_exists(location: str) -> None:
    if storage.is_local(location):
        storage.exists(location)
        storage.names(location + "/none")


def sizes(spec: str) -> None:
    describe(spec, 64, 32)


PARSERS: dict[str, tuple[Callable[[str], object], st.SearchStrategy[str]]] = {
    "arm": (make_arm, specs(list(ARMS))),
    "group of arms": (one_group, specs([*ARMS, *GROUPS])),
    "student": (canonical_student, specs(list(STUDENTS))),
    "target": (canonical_target, specs(list(TARGETS))),
    "duration": (
        canonical_duration,
        st.builds("{}{}".format, ARGUMENT, st.sampled_from(["", " epochs", " step", " samples"])),
    ),
    "teacher": (check_teacher, specs([*TEACHERS, *TIMM, *CLIP])),
    "tracking URI": (check_tracking_uri, TRACKING),
    "kind of URI": (is_tracking_uri, TRACKING),
    "storage URL": (local_exists, TRACKING),
}


def refused_or_read(parse: Callable[[str], object], text: str) -> bool:
    """Whether `text` is read. What else it may be is one printable line of a ValueError."""
    try:
        parse(text)
    except ValueError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        assert "\x1b" not in message
        assert "secret" not in message
        assert len(message) < LONGEST
        return False
    return True


@pytest.mark.parametrize("name", PARSERS)
def test_any_text_is_read_or_refused_in_one_line(name: str) -> None:
    parse, texts = PARSERS[name]

    @MANY
    @given(texts)
    def check(text: str) -> None:
        refused_or_read(parse, text)

    check()


@FEW
@given(specs(list(STUDENTS)))
def test_any_student_is_built_or_refused_in_one_line(spec: str) -> None:
    refused_or_read(sizes, spec)


FIELDS = ["student", "arm", "epochs", "seed", "test_arms", "cosine_weight", "lr", "duration"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from([*KEYS, *FIELDS]) | st.text(max_size=4), inner, max_size=2
        )
    ),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), VALUES, max_size=4))
def test_any_grid_is_read_or_refused_in_one_line(raw: dict) -> None:
    text = "\n".join(f"{json.dumps(key)}: {_flow(value)}" for key, value in raw.items())
    refused_or_read(lambda text: read_grid(text, "g.yaml", "g"), text)


@MANY
@given(st.text(max_size=60))
def test_any_text_is_a_grid_or_one_line(text: str) -> None:
    refused_or_read(lambda text: read_grid(text, "g.yaml", "g"), text)


def _flow(value: object) -> str:
    """YAML of a value: JSON, but for the numbers that JSON has no names for."""
    text = json.dumps(value)
    return text.replace("-Infinity", "-.inf").replace("Infinity", ".inf").replace("NaN", ".nan")


@MANY
@given(st.text())
def test_a_line_of_error_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line
    assert line.split() == line.split(" ") or not line


# ---- values ----

WHOLE = st.integers(1, 10**9 - 1)
ZEROS = st.sampled_from(["", "0", "00"])
DECIMAL = st.decimals("0.25", "60", places=6).map(str)
ROUND_TRIPS: dict[str, tuple[Callable[[str], str], st.SearchStrategy[str]]] = {
    "arm": (
        lambda spec: make_arm(spec).spec,
        st.one_of(
            st.builds("noise:{!r}".format, st.floats(0, 1)),
            st.builds("noise_normalised:{!r}".format, st.floats(0, 10)),
            st.builds("crop_flip:{}".format, st.integers(1, 64)),
            st.builds("random_resized_crop:{!r}".format, st.floats(1e-6, 1)),
            st.builds("low_pass:{!r}".format, st.floats(0.01, 1)),
            st.sampled_from([name for name in ARMS if name != "stored"]),
        ),
    ),
    "student": (
        canonical_student,
        st.one_of(
            st.builds("width:{}".format, DECIMAL),
            st.builds("params:{}{}".format, DECIMAL, st.sampled_from("KM")),
            st.builds("teacher_pca:{}{}".format, ZEROS, st.integers(1, 99999)),
        ),
    ),
    "target": (
        canonical_target,
        st.one_of(
            st.builds("pca:{}{}".format, ZEROS, st.integers(1, 99999)),
            st.builds("whitened:{!r}".format, st.floats(1e-300, 1)),
            st.sampled_from([name for name in TARGETS if name != "pca"]),
        ),
    ),
    "duration": (
        canonical_duration,
        st.one_of(
            st.builds("{}{} {}".format, ZEROS, WHOLE, st.sampled_from(["step", "samples"])),
            st.builds("{} {}".format, DECIMAL, st.sampled_from(["epoch", "epochs"])),
        ),
    ),
    "teacher": (
        untrained,
        st.sampled_from([*TIMM, "embedded", "open_clip:ViT-B-32:openai"])
        | st.builds(
            "open_clip:hf-hub:{}/{}".format, *[st.from_regex(r"[\w.-]+", fullmatch=True)] * 2
        ),
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_the_canonical_form_of_a_canonical_form_is_itself(name: str) -> None:
    canonical, values = ROUND_TRIPS[name]

    @MANY
    @given(values)
    def check(text: str) -> None:
        once = canonical(text)
        assert canonical(once) == once
        assert split_spec(once)[0] == split_spec(text)[0] or name == "duration"

    check()


@MANY
@given(st.floats(0, 1), st.floats(1e-6, 1))
def test_an_arm_and_its_canonical_spec_are_one_arm(sigma: float, least: float) -> None:
    for spec in (f"noise:{sigma!r}", f"random_resized_crop:{least!r}", f"noise:{sigma:.12f}"):
        arm = make_arm(spec)
        assert make_arm(arm.spec) == arm


@MANY
@given(WHOLE, st.integers(1, 512), st.integers(1, 10**6))
def test_a_duration_is_the_steps_that_it_says(count: int, batch: int, samples: int) -> None:
    assert in_steps(f"{count} steps", batch, samples) == count
    assert in_steps(f"{count} sample", batch, samples) == count // batch
    assert in_steps(f"{count}.0 epochs", batch, samples) == count * (samples // batch)


CHARACTERS = st.characters(exclude_characters="/", exclude_categories=["C"])
NAME = st.text(CHARACTERS, min_size=1)


@MANY
@given(NAME.filter(lambda name: name.strip(". ") and len(name.encode()) < 200))
def test_the_default_database_lies_in_its_folder_whatever_the_name(name: str) -> None:
    uri = default_uri(Path("/none") / name)
    assert make_url(uri).database == f"/none/{name}/mlflow.db"
    assert is_tracking_uri(uri)
    assert without_password(uri) == uri


@MANY
@given(st.sampled_from(["s3", "gs", "https", "file"]), NAME, NAME)
def test_the_scheme_of_a_location_stays_where_names_are_joined(scheme, first, second) -> None:
    location = storage.join(f"{scheme}://{first}", second)
    assert storage.scheme_of(location) == scheme
    assert location.endswith(f"/{second}")


@MANY
@given(
    st.sampled_from([{}, {"student": "width:1"}, {"arm": "clean"}]),
    st.lists(st.sampled_from([0.1, 0.01, 1e-05]), min_size=1, unique=True),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True),
)
def test_a_grid_is_read_as_it_is_written(fixed, rates, seeds, name) -> None:
    whole = {"name": name, "fixed": fixed, "axes": {"lr": rates}, "seeds": seeds}
    grid = read_grid(json.dumps(whole), "g.yaml", "other")
    assert (grid.name, grid.fixed, grid.axes, grid.seeds) == (name, fixed, {"lr": rates}, seeds)
