"""YAML 1.2 as plain values; what could surprise is refused with its file and line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.support.yaml_reader import parse_mapping, parse_value

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
REFUSED = [
    ("a: 1\nb: 2\na: 3", None, "key `a` is on line 1 and again on line 3"),
    ("x:\n  a: 1\n  a: 2", None, "key `a` is on line 2 and again on line 3"),
    ("a: 1\n'a': 2", None, "line 1 and again on line 2"),
    ("a: !!python/object/apply:os.system ['true']", 1, "tags (!!python/object/apply:os.system)"),
    ("\na: !!python/name:os.system", 2, "write the plain value"),
    ("a: !!binary aGVsbG8=", 1, "tags (!!binary)"),
    ("a: !mine x", 1, "tags (!mine)"),
    ("a: ! 5", 1, "tags (!)"),
    (BOMB, 1, "anchors (&a)"),
    ("a: 1\nb: *a", 2, "aliases (*a) are refused"),
    ("%YAML 1.1\n---\na: 010", 2, "directives"),
    ("a: " + "[" * 5000 + "]" * 5000, 1, "nested more than 20 deep"),
    ("a: 1\nb:" + " {b:" * 50 + " 1" + "}" * 50, 2, "nested more than 20 deep"),
    ("? [a]\n: 1", 1, "a key must be text"),
    ("a: 1\n? {a: 1}\n: 1", 2, "a key must be text"),
    ("a: 1\n1: 2", 2, "the key `1` is a number; quote it"),
    ("~: 2", 1, "the key `~` is null; quote it"),
    ("true: 2", 1, "the key `true` is a truth value; quote it"),
    ("a: 1\nb:\n\tc: 2", 3, "cannot start any token"),
    ("a: [1, 2", 1, "expected ',' or ']'"),
    ("a: 1\n---\nb: 2", 2, "a second document"),
    ("a: 1\nb: \x00", 2, "special characters are not allowed"),
    ("a: " + "9" * 5000, 1, "5,000 digits"),
    ("- a\n- b", 1, "expected `key: value` lines, found a list"),
    ("just text", 1, "found text"),
    ("", 1, "found nothing"),
]


@pytest.mark.parametrize(("text", "line", "part"), REFUSED)
def test_refusals_name_file_and_line(text, line, part):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        parse_mapping(text, "trial.yaml")
    message = str(caught.value)
    assert message.startswith("trial.yaml: " + (f"line {line}: " if line else ""))
    assert part in message
    assert "\n" not in message
    assert len(message) < 300


SCALARS = {
    **{"1e-3": 1e-3, "1.0e3": 1e3, ".5e3": 500.0, "-1E5": -1e5, "1.": 1.0, "+1.5": 1.5},
    **{"0": 0, "-2": -2, "+12": 12, "010": 10, "08": 8, "0o10": 8, "0x1F": 31},
    **{".inf": math.inf, "-.Inf": -math.inf},
    **{"true": True, "False": False, "TRUE": True, "null": None, "~": None, "": None},
}
TEXTS = ["no", "Yes", "off", "12:30:00", "1:30", "2024-01-31", "1_000", "nan", "inf", "=", "<<"]
TEXTS += ["noise:0.1", "open_clip:ViT-B-32:openai", "a b", "1e", "e3", ".", "0b11", "1.2.3"]


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_plain_scalars_are_those_of_yaml_1_2(text, value):
    read = parse_value(f"a: {text}", "x")["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", TEXTS)
def test_what_yaml_1_1_would_misread_is_text(text):
    assert parse_value(f"a: {text}", "x") == {"a": text}


@pytest.mark.parametrize("text", SCALARS)
def test_quotes_make_text(text):
    assert parse_value(f"'{text}'", "x") == text


def test_yaml_nan_and_an_empty_document():
    assert math.isnan(parse_value(".nan", "x"))
    assert parse_value("# a comment alone", "x") is None


def test_collections_and_blocks():
    text = "a: [1, {b: [c]}, ]\nd:\n  - e\n  -\nf: |\n  one\n  two\n"
    value = {"a": [1, {"b": ["c"]}], "d": ["e", None], "f": "one\ntwo\n"}
    assert parse_mapping(text, "x") == value


TEXT = st.text(st.characters(max_codepoint=0xD7FF))  # JSON escapes others as surrogate pairs
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_json_is_yaml(value):
    assert parse_value(json.dumps(value), "x") == value


@given(st.text())
def test_any_text_is_a_value_or_one_line_of_error(text):
    try:
        parse_value(text, "trial.yaml")
    except ValueError as error:
        message = str(error)
        assert message.startswith("trial.yaml: ")
        assert len(message.splitlines()) == 1
