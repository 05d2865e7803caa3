"""Values that need the teacher's axes are those of students that learn them, and of no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shards.support.registry import split_spec
from tests.shards.measures.made import normal, rotation
from tests.trainers.probes.made import bank_of
from trainers.canonical import make_config
from trainers.objectives import OBJECTIVES
from trainers.objectives.targets import TARGETS
from trainers.probes import PROBES, run_probes
from trainers.probes.features import unit
from trainers.probes.teacher_space import learns_teacher_space

FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1", "arm": "noise:0.1"}
ALIGNED = {"cosine", "mse", "theia", "infonce"}
IN_SPACE = {"teacher", "pca:8"}


def learns(**fields: object) -> bool:
    return learns_teacher_space(make_config(FIELDS | {"views": 2} | fields))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_that_draw_each_image_to_its_target_align(objective: str) -> None:
    assert learns(objective=objective) == (objective in ALIGNED)
    if objective != "supervised" and objective not in ALIGNED:
        assert learns(objective=f"cosine+{objective}")


@pytest.mark.parametrize("name", TARGETS)
def test_targets_in_the_teachers_own_axes(name: str) -> None:
    if name == "labels":
        return
    spec = "pca:8" if name == "pca" else name
    assert learns(target=spec, objective="mse") == (spec in IN_SPACE)
    assert TARGETS[split_spec(spec)[0]].in_teacher_space == (spec in IN_SPACE)


def test_controls() -> None:
    assert learns(student="teacher_pca:8")  # mapped back into the teacher's space
    assert not learns(epochs=0)
    assert not learns(objective="none")
    assert not learns(objective="infonce", infonce_positive="student")
    assert not learns(objective="infonce+rkd", infonce_weight=0.0)
    assert learns(objective="infonce")


def test_what_depends_on_the_axes_is_left_out_by_every_probe_and_nothing_else() -> None:
    """The rule is kept by what the values do: a rotation of the student alone changes them."""
    labels, test_labels = np.arange(120) % 3, np.arange(80) % 3
    train, test, noise = normal(120, 6), normal(80, 6, seed=1), normal(80, 6, seed=2)
    turn = rotation(6)
    fields = {"text_CD": unit(normal(3, 6, seed=3))}
    teacher = test + 0.3 * noise
    names = tuple(PROBES)
    bank = bank_of(train, labels, test, test_labels, teacher, train + 0.1, **fields)
    turned = bank_of(train @ turn, labels, test @ turn, test_labels, teacher, train + 0.1, **fields)
    one, other = (run_probes(names, b, "test") for b in (bank, turned))
    moved = {
        name
        for before, after in zip(one, other, strict=True)
        for name, value in before.items()
        if not np.allclose(value, after[name], rtol=1e-2, atol=1e-3, equal_nan=True)
    }
    apart, arrays = run_probes(names, replace(bank, aligned=False, cache={}), "test")
    absent = ({*one[0], *one[1]}) - {*apart, *arrays}
    assert moved <= absent
    for name in ("cosine_to_teacher", "alignment", "zero_shot/accuracy", "infonce/paper"):
        assert f"test/{name}" in absent
    for name in ("cka/debiased", "rank/effective", "retained/share", "linear/paper/accuracy"):
        assert f"test/{name}" in apart
    assert all(not name.startswith("test/retained") for name in absent)
