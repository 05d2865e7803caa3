"""The strict reader: what YAML 1.1 would misread is refused, with place and line."""

import math

import pytest

from shards.support.strict_yaml import parse

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
REFUSED = [
    ("lr: 1e-3", 1, "YAML reads `1e-3` as a text, not a number; write 1.0e-3"),
    ("a: 1\nlr: 1.0e3", 2, "YAML reads `1.0e3` as a text"),
    ("lr: .5e3", 1, "YAML reads `.5e3` as a text"),
    ("lr: -1E5", 1, "YAML reads `-1E5` as a text"),
    ("lr: nan", 1, "YAML reads `nan` as a text, not a number"),
    ("a: no", 1, "YAML reads `no` as true or false; write true or false, or quote"),
    ("a: [1,\n  Yes]", 2, "YAML reads `Yes` as true or false"),
    ("a: off", 1, "as true or false"),
    ("a: 010", 1, "YAML reads `010` as an octal number; write the number without"),
    ("a: 08", 1, "YAML reads `08` as a text, not a number; write the number without"),
    ("a: 12:30:00", 1, "YAML reads `12:30:00` as a number in base 60; write quotes"),
    ("a: 1:30", 1, "YAML reads `1:30` as a number in base 60"),
    ("a: 1:30.5", 1, "as a number in base 60"),
    ("a: 2024-01-31", 1, "YAML reads `2024-01-31` as a date; write quotes"),
    ("a: 2001-12-14t21:59:43.10-05:00", 1, "as a date"),
    ("a: 1\nb: 2\na: 3", None, "key `a` is on line 1 and line 3"),
    ("x:\n  a: 1\n  a: 2", None, "key `a` is on line 2 and line 3"),
    ("a: 1\n'a': 2", None, "key `a` is on line 1 and line 2"),
    ("a: !!python/object/apply:os.system ['true']", 1, "tags (!!python/object/apply:os.system)"),
    ("\na: !!python/name:os.system", 2, "are refused; write the plain value"),
    ("a: !!binary aGVsbG8=", 1, "tags (!!binary) are refused"),
    ("a: !mine x", 1, "tags (!mine) are refused"),
    (BOMB, 2, "aliases (*a) are refused; write it out"),
    ("a: &a\n  b: *a", 2, "aliases (*a) are refused"),
    ("x:\n  <<: {a: 1}\n  a: 2", 2, "merge keys (<<) are refused"),
    ("a: " + "[" * 5000 + "]" * 5000, 1, "nested more than 20 deep"),
    ("a: 1\nb:" + " {b:" * 50 + " 1" + "}" * 50, 2, "nested more than 20 deep"),
    ("? [a]\n: 1", 1, "a key must be a text, not a sequence"),
    ("a: 1\n? {a: 1}\n: 1", 2, "a key must be a text, not a mapping"),
    ("a: 1\n1: 2", 2, "key `1` is read as int; quote it"),
    ("~: 2", 1, "key `~` is read as null; quote it"),
    ("a: 1\nb:\n\tc: 2", 3, "found character '\\t' that cannot start any token"),
    ("a: [1, 2", 1, "expected ',' or ']'"),
    ("a: 1\n---\nb: 2", 2, "but found another document"),
    ("a: 1\nb: \x00", 2, "special characters are not allowed"),
    ("a: " + "9" * 5000, 1, "4300"),
    ("- a\n- b", 1, "expected `key: value` lines, found list"),
    ("just text", 1, "expected `key: value` lines, found str"),
    ("", 1, "expected `key: value` lines, found nothing"),
]


@pytest.mark.parametrize(("text", "line", "said"), REFUSED)
def test_refusals_name_place_and_line(text, line, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        parse(text, "trial.yaml")
    message = str(caught.value)
    assert message.startswith("trial.yaml: " + (f"line {line}: " if line else ""))
    assert said in message
    assert "\n" not in message
    assert len(message) < 300


def test_what_is_meant_is_read():
    text = """
    numbers: [1, -2, 1.5, 1.0e-3, 1_000, 0, 0.5, 1.0e+3]
    most: .inf
    flags: [true, False]
    texts: ['no', "1e-3", '010', noise:0.1, crop_flip:4, open_clip:ViT-B-32:openai, a b]
    nothing: [null, ~, ]
    nested: {a: {b: [c]}}
    """
    value = parse(text, "x")
    assert value["numbers"] == [1, -2, 1.5, 1e-3, 1000, 0, 0.5, 1e3]
    assert math.isinf(value["most"])
    assert value["flags"] == [True, False]
    texts = ["no", "1e-3", "010", "noise:0.1", "crop_flip:4", "open_clip:ViT-B-32:openai", "a b"]
    assert value["texts"] == texts
    assert value["nothing"] == [None, None]
    assert value["nested"] == {"a": {"b": ["c"]}}
