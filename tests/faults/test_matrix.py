"""Each fault that docs/reliability.md promises something about has a test, which exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = "## Which test shows it"
KINDS = ("SIGKILL", "head", "node", "spot", "save", "disk", "read", "MLflow", "bit", "poisoned",
         "clock", "two sweeps", "zombie", "NaN", "collective", "store")  # fmt: skip


def faults_with_tests() -> dict[str, list[str]]:
    page = (ROOT / "docs" / "reliability.md").read_text()
    text = page.partition(SECTION)[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    return {row[1].strip(): re.findall(r"`(tests/[^`]+)`", row[2]) for row in rows}


def test_no_kind_of_fault_is_left_out() -> None:
    faults = faults_with_tests()
    assert [kind for kind in KINDS if not any(kind in fault for fault in faults)] == []


@pytest.mark.parametrize("fault", faults_with_tests())
def test_a_fault_has_its_tests(fault: str) -> None:
    named = faults_with_tests()[fault]
    assert named
    for test in named:
        file, _, name = test.partition("::")
        found = ast.walk(ast.parse((ROOT / file).read_text()))
        functions = {node.name for node in found if isinstance(node, ast.FunctionDef)}
        assert name in functions, test
