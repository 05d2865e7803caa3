"""pyproject.toml requires all that is imported, with extras that exist and pinned versions."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("distilsweep", "shards", "trainers", "sweep")
UNPINNED = PROJECT["optional-dependencies"]["transformers"]  # nothing here is tried with it
# {project: the requirement that always brings it}
BROUGHT = {
    "aiobotocore": "s3fs",
    "aiohttp": "s3fs",
    "botocore": "boto3",
    "cycler": "matplotlib",
    "grpcio": "ray",
    "huggingface-hub": "timm",
    "markupsafe": "jinja2",
    "sqlalchemy": "mlflow",
    "threadpoolctl": "scikit-learn",
}


def required() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for rs in (PROJECT["dependencies"], *extras) for r in rs]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("#")[0].partition(";")[0].strip() for line in lines]
    return {canonicalize_name(n): v for n, _, v in (pin.partition("==") for pin in pins if pin)}


def imported() -> Iterator[tuple[str, str]]:
    """(Top-level module of another project, file that imports it)."""
    for path in (path for package in OURS for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.split(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in OURS:
                    yield name, str(path.relative_to(ROOT))


def test_what_is_imported_is_required() -> None:
    """A developer's environment has more than a user's: what tests alone require, for example."""
    users = {k: v for k, v in PROJECT["optional-dependencies"].items() if k not in ("dev", "docs")}
    names = [*PROJECT["dependencies"], *(r for rs in users.values() for r in rs)]
    known = {canonicalize_name(Requirement(r).name) for r in names}
    of = importlib.metadata.packages_distributions()
    missing = sorted(
        f"{module} in {file}"
        for module, file in imported()
        for found in [{canonicalize_name(name) for name in of.get(module, [module])}]
        if not (found | {BROUGHT.get(name, "") for name in found}) & known
    )
    assert missing == []


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_a_requirement_has_its_extras_and_its_version_is_pinned(requirement: Requirement) -> None:
    """For an extra that a release lacks pip prints a warning, and installs nothing."""
    pin = pinned().get(canonicalize_name(requirement.name))
    if pin is None:
        assert str(requirement) in UNPINNED
        return
    assert requirement.specifier.contains(pin)
    found = importlib.metadata.metadata(requirement.name)
    offered = {canonicalize_name(extra) for extra in found.get_all("Provides-Extra") or ()}
    assert {canonicalize_name(extra) for extra in requirement.extras} <= offered
