"""What is read from source is what the tables have, whose modules are imported here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from shards.arms import ARMS, make_arm
from shards.support import table_names as module
from shards.support.spec_options import parse_options
from shards.support.table_names import field_names, table_names
from shards.support.table_options import table_options
from sweep.planning.fields import NAMED
from trainers.canonical import trial_fields
from trainers.config.schema import TrialConfig

TABLES = sorted({table for _, *tables in NAMED.values() for table in tables})


@pytest.mark.parametrize(("home", "table"), TABLES)
def test_the_source_tells_all_names_of_a_table(home: str, table: str) -> None:
    real = tuple(getattr(import_module(home), table))
    assert module._value_names(home, table) == real  # pyright: ignore[reportPrivateUsage]
    assert table_names(home, table) == real  # of one that is imported, from itself


def test_the_source_tells_all_fields_of_objectives() -> None:
    declared = field_names("trainers.objectives", "ObjectiveFields")
    assert declared is not None
    own = set(TrialConfig.model_fields) - {"objective_fields"}
    assert set(declared) == set(trial_fields()) - own


def test_the_source_tells_the_options_of_arms() -> None:
    unsaid = set[str]()
    for name in ARMS:
        options = table_options("shards.arms", "ARMS", name)
        if options is None:
            unsaid.add(name)
            continue
        values = parse_options(options, name, "")
        assert {key: make_arm(name).options[key] for key in values} == values
    assert unsaid == {"stored", "fourier"}  # they are functions


def test_an_entry_that_was_added_is_among_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    table = import_module("trainers.students").STUDENTS
    monkeypatch.setitem(table, "mine", lambda *spec: None)
    assert "mine" in (table_names("trainers.students", "STUDENTS") or ())


@pytest.mark.parametrize(
    "source",
    ["NAMES = Table('x', made())", "NAMES = {f'{i}': i for i in (1, 2)}", "NAMES = {one: 1}", ""],
)
def test_what_a_source_does_not_say_is_none(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unsaid_names").mkdir()
    (tmp_path / "unsaid_names" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    module._parsed.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert table_names("unsaid_names", "NAMES") is None
