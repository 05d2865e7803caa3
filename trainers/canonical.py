"""From fields as a user writes them to a TrialConfig in its one canonical spelling.

    config = make_config({"dataset": "digits", "teacher": "embedded", "student": "width:1"})

This module looks names up in the tables (students, objectives, targets, arms, optimisers, engines,
probes), so a wrong one is refused before anything runs. It also gives all spellings of one trial
the same identity: `params:500K` and `params:0.5M`, `cosine+koleo` and `koleo+cosine`, or any value
of a field that has no effect. The trial names those plugins, with their hashes, that it uses.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from shards.arms import ARMS, make_arm
from shards.arms.cifar10c_files import check_dataset
from shards.arms.groups import expand_arms
from shards.datasets import DATASETS
from shards.support.command import one_line
from shards.support.plugins import load_plugins
from shards.support.registry import closest, plugins_of
from shards.support.schema import validated
from shards.support.yaml_reader import parse_mapping
from shards.teachers import TEACHERS
from trainers.config import rules
from trainers.config.recipe import FIRST, RECIPE_FIELD
from trainers.config.schema import PLUGINS, TrialConfig
from trainers.engines import ENGINES
from trainers.objectives import (
    OBJECTIVES,
    UNTRAINED,
    canonical_objective,
    classes_in_trial,
    field_classes,
    fields_read,
    needs_second_view,
    zero_weights,
)
from trainers.objectives.targets import TARGETS, canonical_target
from trainers.probes import PROBES, default_probes
from trainers.students import STUDENTS, canonical_student
from trainers.students.teacher_pca import has_no_network
from trainers.training.optim import OPTIMIZERS


def trial_fields() -> dict[str, FieldInfo]:
    """Every field that a trial may be given, in the order in which results show them.

    Raises: ValueError where an objective's field has the name of another field.
    """
    fields: dict[str, FieldInfo] = {}
    for name, field in TrialConfig.model_fields.items():
        fields |= _objective_fields() if name == "objective_fields" else {name: field}
    fields["probes"] = copy.copy(fields["probes"])
    fields["probes"].default = default_probes()
    return fields


def _objective_fields() -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = {}
    for declared in field_classes():
        for name, field in declared.model_fields.items():
            if name in fields or name in TrialConfig.model_fields:
                raise ValueError(
                    f"{declared.__name__}: `{name}` is the name of another field of a trial; "
                    "begin it with the objective's name"
                )
            fields[name] = field
    return fields


def make_config(fields: Mapping[str, Any], where: str = "") -> TrialConfig:
    """Validate `fields` and spell them canonically.

    where: the file that the fields come from, for error messages.
    Raises: ValueError, one line with the file, the field, what was found and what would be right.
    """
    try:
        return _canonical(fields)
    except ValueError as error:
        prefix = f"{where}: " if where else ""
        raise ValueError(prefix + one_line(str(error))) from None


def check_alone(field: str, value: Any, where: str) -> None:
    """Check one value by the tables of objectives and targets, whatever the other fields are.

    Raises: ValueError as `make_config`.
    """
    try:
        if field == "objective":
            _ = canonical_objective(value)
        elif field == "target":
            _ = canonical_target(value)
        elif field in _objective_fields():
            _ = _objective_values({field: value})
    except ValueError as error:
        raise ValueError(f"{where}: {one_line(str(error))}") from None


def stored_config(fields: Mapping[str, Any], where: str = "") -> TrialConfig:
    """The trial whose fields were stored, perhaps before there were recipes.

    Raises: ValueError as `make_config`.
    """
    _load(fields, where, recorded=True)
    return make_config({RECIPE_FIELD: FIRST} | dict(fields), where)


def load_config(path: str) -> TrialConfig:
    """The trial in a YAML file. Its plugins are searched beside it, then on sys.path.

    Raises: ValueError for wrong YAML or fields; OSError where the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    fields = parse_mapping(text, path)
    return make_config(fields | _load(fields, path, Path(path).parent), path)


def _load(
    fields: Mapping[str, Any], where: str, beside: Path | None = None, recorded: bool = False
) -> dict[str, Any]:
    """{plugins: MODULE@HASH of those that the fields name}; see `load_plugins`."""
    if PLUGINS not in fields:
        return {}
    try:
        return {PLUGINS: load_plugins(fields[PLUGINS], beside, recorded)}
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _canonical(fields: Mapping[Any, Any]) -> TrialConfig:
    _ = load_plugins(fields.get(PLUGINS, ()))  # they add entries to the tables
    for name in PROBES.plugins:
        if PROBES[name].default:
            raise ValueError(
                f"plugins: probe `{name}` is a default one, which would change other trials; make "
                "it no default, and name it in `probes`"
            )
    known, of_objectives = trial_fields(), _objective_fields()
    for name in fields:
        if isinstance(name, str) and name not in known:
            raise ValueError(f"unknown key `{name}`; {closest(name, list(known))}")
    given = rules.one_length({k: v for k, v in fields.items() if k not in of_objectives})
    typed = validated(TrialConfig, {"probes": default_probes()} | given)
    values = {name: getattr(typed, name) for name in TrialConfig.model_fields}
    values |= _canonical_names(values)
    # Fields about ranks without effect are reset before the check: it must not refuse a value
    # that changes nothing.
    values |= _defaults(rules.rank_fields_without_effect(values))
    rules.check_ranks(values)

    objective_values = _objective_values({k: v for k, v in fields.items() if k in of_objectives})
    facts = rules.Facts(
        has_network=not has_no_network(values["student"]),
        has_objective=values["objective"] != UNTRAINED,
        labels_only=values["objective"] == "supervised",
        second_view=needs_second_view(values["objective"], objective_values),
        zero_weights=zero_weights(values["objective"], objective_values),
    )
    rules.check(values, facts)
    unused = rules.without_effect(values, facts)
    if not rules.trains(values, facts):
        values |= {"epochs": 0, "duration": None}
    elif facts.labels_only:
        values["target"] = "labels"
    values |= _defaults(unused)
    values["objective_fields"] = _in_trial(values["objective"], objective_values)
    values[PLUGINS] = _plugins_used(values)
    return validated(TrialConfig, values)


def _plugins_used(values: Mapping[str, Any]) -> tuple[str, ...]:
    """MODULE@HASH of every plugin that registered something the trial names."""
    tables = {
        "dataset": DATASETS,
        "teacher": TEACHERS,
        "arm": ARMS,
        "student": STUDENTS,
        "target": TARGETS,
        "optimizer": OPTIMIZERS,
        "engine": ENGINES,
        "test_arms": ARMS,
        "adapt_arms": ARMS,
        "probes": PROBES,
    }
    used = [(OBJECTIVES, term) for term in values["objective"].split("+")]
    for field, table in tables.items():
        value = values[field]
        used += [(table, spec) for spec in ([value] if isinstance(value, str) else value)]
    return plugins_of(*used)


def _defaults(names: set[str]) -> dict[str, Any]:
    return {name: TrialConfig.model_fields[name].default for name in names}


def _canonical_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: canonical spelling} of the fields that name an entry of a table."""
    arm = make_arm(values["arm"])
    if arm.test_only:
        raise ValueError(f"arm: `{arm.spec}` has test images only; choose another arm")
    test_arms = expand_arms(values["test_arms"])
    check_dataset(test_arms, values["dataset"])
    for name in values["probes"]:
        _ = PROBES[name]
    _, _ = OPTIMIZERS[values["optimizer"]], ENGINES[values["engine"]]
    return {
        "arm": arm.spec,
        # All views of an arm without random parameters are equal, so it has one.
        "views": values["views"] if arm.stochastic else 1,
        "student": canonical_student(values["student"]),
        "target": canonical_target(values["target"]),
        "objective": canonical_objective(values["objective"]),
        "probes": tuple(dict.fromkeys(values["probes"])),
        "test_arms": test_arms,
        "adapt_arms": _adapt_arms(values),
    }


def _adapt_arms(values: Mapping[str, Any]) -> tuple[str, ...]:
    arms = tuple(spec for spec in expand_arms(values["adapt_arms"]) if spec != "clean")
    for spec in arms:
        if make_arm(spec).test_only:
            raise ValueError(f"adapt_arms: `{spec}` has test images only; choose another arm")
    if "robustness" not in values["probes"]:  # the only probe that reads them
        return TrialConfig.model_fields["adapt_arms"].default
    return arms


def _objective_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of all objectives, checked, with defaults for those that are not given."""
    values: dict[str, Any] = {}
    for declared in field_classes():
        chosen = {name: given[name] for name in declared.model_fields if name in given}
        values |= validated(declared, chosen).model_dump()
    return values


def _in_trial(objective: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The objective fields that a trial has; those without effect are at their defaults."""
    read = fields_read(objective)
    return {
        name: values[name] if name in read else field.default
        for declared in classes_in_trial(objective)
        for name, field in declared.model_fields.items()
    }
