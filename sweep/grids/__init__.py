"""The grids that come with the project, one YAML file each; sweep.planning.grid reads them."""

from __future__ import annotations

from importlib import resources


def named_grids() -> dict[str, str]:
    """{name: YAML text}, in alphabetical order."""
    texts = {
        file.name.removesuffix(".yaml"): file.read_text()
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(".yaml")
    }
    return dict(sorted(texts.items()))


def summaries() -> dict[str, str]:
    """{name: the comment at the top of its file}: what each grid is for."""
    found = {}
    for name, text in named_grids().items():
        lines = text.splitlines()
        end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        found[name] = " ".join(line.removeprefix("#").strip() for line in lines[:end])
    return found
