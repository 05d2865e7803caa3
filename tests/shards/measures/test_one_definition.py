"""Each measure has one definition in the packages, so no two figures of one name can differ."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("shards", "trainers", "sweep")


def definitions() -> Counter[str]:
    """How often each function name is defined, at any depth, in the three packages."""
    trees = [ast.parse(p.read_text()) for name in PACKAGES for p in (ROOT / name).rglob("*.py")]
    functions = (node for tree in trees for node in ast.walk(tree))
    return Counter(node.name for node in functions if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(
    "name",
    ["effective_rank", "rank_from_eigenvalues", "mean_cosine", "fit_paper", "centred_eigenvalues"],
)
def test_a_measure_is_defined_once(name: str) -> None:
    assert definitions()[name] == 1


def test_measures_know_no_file_format_and_no_model() -> None:
    """They import NumPy, SciPy, torch, each other and shards.support, and nothing else."""
    allowed = {"__future__", "collections", "contextlib", "dataclasses", "itertools", "math"}
    allowed |= {"typing", "numpy", "scipy", "torch"}
    for path in (ROOT / "shards" / "measures").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            for name in names:
                ours = name.startswith(("shards.measures", "shards.support"))
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"
