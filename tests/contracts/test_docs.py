"""README and docs/: links resolve, paths exist, commands parse, generated tables are current."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import tomllib
from pathlib import Path

import pytest

from shards.support.yaml_reader import parse_mapping
from sweep.analysis.claims import read_claims
from sweep.planning.grid import read_grid
from trainers.canonical import make_config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
PAGES.remove(ROOT / "LOG.md")  # a diary: it names files as they were called at the time
PACKAGES = ("shards", "trainers", "sweep")
TOPS = (*PACKAGES, "tests", "docs", "benchmarks", "examples", ".ci", ".github")
WORDS_IN_README = 1500


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Ids of a page's headings, as both GitHub and mkdocs make them from plain words."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text()), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: no file `{target}`"
        assert not anchor or anchor in anchors(file), f"{name(page)}: no heading `{target}`"
        # The site is built from docs/ alone: a link out of it works on GitHub and breaks there.
        assert page.parent != DOCS or file.is_relative_to(DOCS), f"{name(page)}: `{target}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page: Path) -> None:
    """What looks like a path of this repository is one, in text and in code."""
    tops = "|".join(re.escape(top) for top in TOPS)
    for path in re.findall(rf"(?<![\w/.:~-])((?:{tops})/[\w./*-]*)", page.read_text()):
        found = path.rstrip(".")
        exists = any(ROOT.glob(found)) if "*" in found else (ROOT / found).exists()
        # docs/extending.md shows files that a reader would add.
        shown = found == "trainers/probes/mean_norm.py"
        assert exists or shown, f"{name(page)}: no `{path}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_exist(page: Path) -> None:
    """`python -m MODULE`, and dotted names in backticks as far as they name a file."""
    text = page.read_text()
    packages = "|".join(PACKAGES)
    for module in re.findall(rf"-m ((?:{packages})\.[\w.]+)", text):
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").exists(), (name(page), module)
    for dotted in re.findall(rf"`((?:{packages})\.[\w.]+)`", text):
        parts = dotted.split(".")
        place = ROOT
        while parts and (place / parts[0]).is_dir():
            place /= parts.pop(0)
        if parts and (place / parts[0]).with_suffix(".py").exists():
            place = (place / parts.pop(0)).with_suffix(".py")
        file = place / "__init__.py" if place.is_dir() else place
        known = not parts or re.search(rf"\b{parts[0]}\b", file.read_text())
        assert known, f"{name(page)}: no `{dotted}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_work(page: Path) -> None:
    pattern = rf"^from ((?:{'|'.join(PACKAGES)})[\w.]*) import (\w+)$"
    for module, attribute in re.findall(pattern, page.read_text(), flags=re.MULTILINE):
        assert hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(
            f"{module}.{attribute}"
        ), f"{name(page)}: {module} has no {attribute}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_exist(page: Path) -> None:
    """Every option shown with a command occurs in the sources of the command's package."""
    text = page.read_text().replace("\\\n", " ")
    for package, rest in re.findall(rf"-m ({'|'.join(PACKAGES)})\.\w+([^#`|\n]*)", text):
        source = "".join(file.read_text() for file in (ROOT / package).rglob("*.py"))
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
            assert re.search(rf"{option}\b(?!-)", source), (
                f"{name(page)}: no option {option} in {package}"
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_blocks_are_valid(page: Path) -> None:
    """A block with axes is a grid, one with claims a claims file; any other one is a trial."""
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        if "axes:" in block:
            read_grid(block, name(page), "grid")
        elif "claims:" in block:
            read_claims(block, name(page))
        else:
            make_config(parse_mapping(block, name(page)))


def test_readme_is_short() -> None:
    words = len((ROOT / "README.md").read_text().split())
    assert words < WORDS_IN_README, f"README.md: {words} words; move some of it to docs/"


def test_every_page_is_in_the_navigation_and_linked_from_readme() -> None:
    site, readme = (ROOT / "mkdocs.yml").read_text(), (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in site, f"mkdocs.yml: nav lacks {page.name}"
        assert page.name == "index.md" or f"(docs/{page.name})" in readme, page.name


def diagram() -> dict[str, list[str]]:
    """{package: its rooms from top to bottom} of the first diagram of docs/architecture.md."""
    text = re.search(r"```text\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    assert text is not None
    shown: dict[str, list[str]] = {}
    package = ""
    for line in text[1].splitlines():
        if header := re.match(rf" ({'|'.join(PACKAGES)})\b", line):
            package = header[1]
            shown[package] = []
        elif room := re.match(r"[ |]+(\w+)/ ", line):
            shown[package].append(room[1])
    return shown


@pytest.mark.parametrize("package", PACKAGES)
def test_the_diagram_shows_every_room(package: str) -> None:
    rooms = {file.parent.name for file in (ROOT / package).glob("*/__init__.py")}
    assert set(diagram()[package]) == rooms


def test_the_diagram_has_the_order_that_import_linter_enforces() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = [c for c in contracts if c["type"] == "layers" and c.get("containers")]
    for contract in layers:
        (package,) = contract["containers"]
        shown = diagram()[package]
        level = {
            name.strip(): height
            for height, line in enumerate(contract["layers"])
            for name in re.split(r"[|:]", line)
        }
        heights = [level[room] for room in shown if room in level]
        assert heights == sorted(heights), f"{package}: {contract['layers']}, shown: {shown}"


def test_the_table_of_fields_is_current() -> None:
    script = runpy.run_path(str(DOCS / "config_table.py"))
    text = (DOCS / "configuration.md").read_text()
    assert script["with_table"](text) == text, "python docs/config_table.py --write"
