"""The code of docs/extending.md works as it is printed there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import Field  # noqa: F401
from torch import nn
from torch.nn.functional import normalize  # noqa: F401

from shards.arms import ARMS, make_arm
from shards.arms.base import Option, arm_entry  # noqa: F401 (names of the page)
from shards.arms.ops import HorizontalFlip, RandomCrop  # noqa: F401
from shards.datasets import DATASETS, open_dataset
from shards.datasets.base import ArrayDataset, Block  # noqa: F401
from shards.teachers import TEACHERS, open_teacher
from shards.teachers.frozen import FrozenTeacher  # noqa: F401
from shards.teachers.preprocess import Preprocess  # noqa: F401
from trainers.canonical import make_config
from trainers.config.types import Number  # noqa: F401
from trainers.engines import ENGINES
from trainers.engines.single import Single  # noqa: F401
from trainers.objectives import OBJECTIVES, make_objective
from trainers.objectives.base import Objective, ObjectiveFields  # noqa: F401
from trainers.probes import PROBES, Probe, run_probes  # noqa: F401
from trainers.probes.features import FeatureBank, Stored, unit
from trainers.students import STUDENTS, Student, build_student  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def snippets() -> dict[str, str]:
    """{what is added: its code}, in the page's order."""
    sections = re.split(r"^## An? ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    code = [re.findall(r"```python\n(.*?)```", section, re.DOTALL) for section in sections]
    return {s.split("\n", 1)[0]: "".join(blocks) for s, blocks in zip(sections, code, strict=True)}


TABLES = (STUDENTS, OBJECTIVES, ARMS, PROBES, ENGINES, TEACHERS, DATASETS)


@pytest.fixture
def _tables():
    """Restores the real tables afterwards."""
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def test_the_page_shows_the_plugin_of_the_examples_whole():
    """tests/sweep/test_plugins.py runs it."""
    assert f"```python\n{(PAGE.parents[1] / 'examples/mine.py').read_text()}```" in PAGE.read_text()


def test_each_addition_is_shown_in_a_few_lines():
    assert list(snippets()) == [
        "student", "objective", "arm", "probe", "engine", "teacher", "data set"
    ]  # fmt: skip
    for name, code in snippets().items():
        lines = [line for line in code.splitlines() if line]
        assert 1 <= len(lines) <= 6, name


@pytest.mark.usefixtures("_tables")
def test_the_additions_work_as_printed():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    block = Block(images, np.array([0, 1, 0, 1]), ("a", "b", "c", "d"))
    mine = {"MyModel": nn.Flatten, "MEAN": (0, 0, 0), "STD": (1, 1, 1)}
    scope = globals() | mine | {"classes": ("x", "y")}
    for code in snippets().values():
        exec(code.replace("Block(...)", "block"), scope | {"block": block})
    config = make_config(
        {"dataset": "mine", "teacher": "mine", "student": "flat:", "arm": "flip"}
        | {"objective": "l1", "l1_weight": 2.0, "probes": ["mean_norm"], "engine": "mine"}
    )
    student = build_student(config.student, 5, 8, 0)
    objective = make_objective(config.objective, config.objective_fields)
    loss = objective(student(torch.ones(2, 3, 8, 8)), torch.eye(5)[:2])
    assert loss.requires_grad
    engine = ENGINES[config.engine](torch.device("cpu"))
    assert engine.gather(torch.arange(5)).tolist() == [0, 2, 4]
    arm = make_arm("flip")
    flipped = arm.pixels(torch.arange(2).view(1, 1, 1, 2).byte(), torch.tensor([[1]]))
    assert flipped.flatten().tolist() == [1, 0]
    assert make_arm("shift").spec == "shift:4"
    with pytest.raises(ValueError, match="from 1 to 16"):
        make_arm("shift:99")
    eye, labels = unit(np.eye(3)), np.arange(3)
    bank = FeatureBank(eye, labels, eye, labels, eye, eye, Stored({}))
    assert run_probes(config.probes, bank, "test")[0] == {"test/mean_norm": pytest.approx(3**-0.5)}
    assert open_teacher("mine").dim == 3 * 224 * 224
    assert open_dataset("mine").count("test") == 4
