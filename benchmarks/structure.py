"""The shape of the code: files, lines, rooms, floors of imports and circles of each package.

    python benchmarks/structure.py            # this tree
    python benchmarks/structure.py FOLDER     # another one, for example an older checkout

A *floor* is a level of the import graph: a module that imports no other module of its package is
on the first floor, one that imports modules of the first floor is on the second, and so on. Modules
that import each other in a circle share a floor. Imports inside functions and under TYPE_CHECKING
count. grimp, which import-linter brings, reads the imports without running any code.
"""

from __future__ import annotations

import argparse
import io
import sys
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

PACKAGES = ("shards", "trainers", "sweep")
SKIPPED = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip

Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Row:
    """What is counted of one package."""

    package: str
    files: int
    lines: int
    code: int
    comments: int
    rooms: int
    floors: int
    room_floors: int
    room_arrows: int
    circles: int
    room_circles: int


def import_graph(package: str) -> Graph:
    """{module: modules of the same package that it imports}."""
    graph = grimp.build_graph(package, cache_dir=None)
    return {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}


def components(graph: Graph) -> list[set[str]]:
    """Strongly connected components (Tarjan); those of more than one module are circles."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for below in graph[node]:
            if below not in order:
                visit(below)
                low[node] = min(low[node], low[below])
            elif below in stack:
                low[node] = min(low[node], order[below])
        if low[node] == order[node]:
            cut = stack.index(node)
            found.append(set(stack[cut:]))
            del stack[cut:]

    for node in graph:
        if node not in order:
            visit(node)
    return found


def floors(graph: Graph, circles: Iterable[set[str]]) -> int:
    """Modules on the longest chain of imports; a circle counts as one module."""
    leader = {node: min(circle) for circle in circles for node in circle}
    merged: Graph = {leader[node]: set() for node in graph}
    for node, imported in graph.items():
        merged[leader[node]] |= {leader[i] for i in imported} - {leader[node]}
    level: dict[str, int] = {}
    for node in TopologicalSorter(merged).static_order():
        level[node] = 1 + max((level[i] for i in merged[node]), default=0)
    return max(level.values())


def room_graph(package: str, graph: Graph) -> Graph:
    """The same graph between rooms; modules directly in the package are rooms of their own."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    rooms: Graph = {room(module): set() for module in graph if module != package}
    for module, imported in graph.items():
        if module != package:
            rooms[room(module)] |= {room(i) for i in imported if i != package} - {room(module)}
    return rooms


def code_and_comments(source: str) -> tuple[int, int]:
    """Lines with code (docstrings are not code), and lines with a comment."""
    code: set[int] = set()
    comments = 0
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        comments += token.type == tokenize.COMMENT
        docstring = token.type == tokenize.STRING and before in (
            tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        )  # fmt: skip
        if token.type not in SKIPPED and not docstring:
            code.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return len(code), comments


def measure(root: Path, package: str) -> Row:
    files = sorted((root / package).rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in files]
    counts = [code_and_comments(text) for text in texts]
    graph = import_graph(package)
    circles = components(graph)
    rooms = room_graph(package, graph)
    room_circles = components(rooms)
    return Row(
        package,
        files=len(files),
        lines=sum(text.count("\n") for text in texts),
        code=sum(code for code, _ in counts),
        comments=sum(comments for _, comments in counts),
        rooms=len(list((root / package).glob("*/__init__.py"))),
        floors=floors(graph, circles),
        room_floors=floors(rooms, room_circles),
        room_arrows=sum(len(imported) for imported in rooms.values()),
        circles=sum(len(circle) > 1 for circle in circles),
        room_circles=sum(len(circle) > 1 for circle in room_circles),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        "python benchmarks/structure.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(__file__).parents[1], help="default: this tree"
    )
    root = parser.parse_args().folder.resolve()
    sys.path.insert(0, str(root))
    columns = list(Row.__annotations__)
    print("| " + " | ".join(name.replace("_", " ") for name in columns) + " |")
    print("|" + "---|" * len(columns))
    for package in PACKAGES:
        row = measure(root, package)
        print("| " + " | ".join(str(getattr(row, name)) for name in columns) + " |")


if __name__ == "__main__":
    main()
