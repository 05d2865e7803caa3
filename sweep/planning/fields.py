"""Names of a trial's fields and their values, checked as far as that needs no torch.

A mistake in a grid file or a command line should not take seconds to be reported. So the names in
the tables are read from the tables' source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from shards.support.registry import closest, split_spec
from shards.support.schema import validated
from shards.support.spec_options import parse_options
from shards.support.table_names import field_names, table_names
from shards.support.table_options import table_options
from trainers.config.schema import PLUGINS, TrialConfig
from trainers.config.student_specs import check_student

OBJECTIVES = "trainers.objectives"
PRECISION, AUTO = "precision", "auto"  # a grid's: chosen by measuring, see sweep.planning.precision
ARMS = ("shards.arms", "ARMS"), ("shards.arms.groups", "GROUPS")
# {field: (what its values name, tables that hold the names)}
NAMED: dict[str, tuple[Any, ...]] = {
    "dataset": ("dataset", ("shards.datasets", "DATASETS")),
    "teacher": ("teacher", ("shards.teachers", "TEACHERS")),
    "student": ("student", ("trainers.students", "STUDENTS")),
    "arm": ("arm", ARMS[0]),
    "test_arms": ("arm", *ARMS),
    "adapt_arms": ("arm", *ARMS),
    "objective": ("objective", (OBJECTIVES, "OBJECTIVES")),
    "target": ("target", ("trainers.objectives.targets", "TARGETS")),
    "optimizer": ("optimizer", ("trainers.training.optim", "OPTIMIZERS")),
    "engine": ("engine", ("trainers.engines", "ENGINES")),
    "probes": ("probe", ("trainers.probes", "PROBES")),
}


def refuse_unknown(names: Iterable[Any], known: Iterable[str], kind: str, source: str) -> None:
    """Raises: ValueError, of one line, for the first of the names that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{source}: unknown {kind} `{name}`; {closest(str(name), known)}")


def check_fields(names: Iterable[Any], source: str) -> None:
    """Check names of a trial's fields. Raises: ValueError, of one line, with the closest name."""
    if PLUGINS in (names := list(names)):
        raise ValueError(f"{source}: `{PLUGINS}` is a key of the grid file, beside `fixed`")
    own = [name for name in TrialConfig.model_fields if name != "objective_fields"]
    if all(name in own for name in names):
        return
    refuse_unknown(names, (*own, *_objective_fields()), "field", source)


def _objective_fields() -> Iterable[str]:
    """Fields that objectives add. Their modules need torch, so it is their source that is read."""
    if OBJECTIVES not in sys.modules:
        found = field_names(OBJECTIVES, "ObjectiveFields")
        if found is not None:
            return found
    from trainers.canonical import trial_fields

    return trial_fields()


def check_value(field: str, value: Any, source: str) -> None:
    """Check a value of `fixed` or `axes`: one of a trial, or a precision of `auto`.

    Raises: ValueError, of one line.
    """
    if (field, value) != (PRECISION, AUTO):
        check_trial_value(field, value, source)


def check_trial_value(field: str, value: Any, source: str) -> None:
    """Check the type of one value, and what it names, as far as other fields do not matter.

    Raises: ValueError, of one line.
    """
    if field in TrialConfig.model_fields:
        names = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
        typed = validated(TrialConfig, names | {field: value}, source)
        if field in NAMED:
            _check_names(field, getattr(typed, field), source)


def _check_names(field: str, value: str | tuple[str, ...], source: str) -> None:
    """Check that tables have the names in a field's value, as far as their sources tell."""
    kind, *tables = NAMED[field]
    known = [table_names(module, table) for module, table in tables]
    if None in known or (kind, value) == ("objective", "none"):
        return
    choices = [name for names in known for name in names or ()]
    specs: Iterable[str] = [value] if isinstance(value, str) else value
    if kind == "objective":
        specs = [term for spec in specs for term in spec.split("+")]
    for spec in specs:
        name = split_spec(spec)[0]
        if name not in choices:
            raise ValueError(f"{source}: unknown {kind} `{name}`; {closest(name, choices)}")
        _check_argument(kind, spec, source)


def _check_argument(kind: str, spec: str, source: str) -> None:
    """Check what follows a name, of students and arms that say without torch what that may be."""
    name, argument = split_spec(spec)
    try:
        if kind == "student":
            check_student(spec)
        elif kind == "arm" and (options := table_options(*ARMS[0], name)) is not None:
            parse_options(options, spec, argument)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
