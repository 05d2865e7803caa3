"""The grids that come with the project, one YAML file each; sweep.planning.grid reads them.

Beside a grid may lie its claims, NAME.claims.yaml, which sweep.analysis.claims reads.
"""

from __future__ import annotations

from importlib import resources

CLAIMS = ".claims.yaml"


def named_grids() -> dict[str, str]:
    """{name: YAML text}, in alphabetical order."""
    texts = {
        file.name.removesuffix(".yaml"): file.read_text()
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(".yaml") and not file.name.endswith(CLAIMS)
    }
    return dict(sorted(texts.items()))


def named_claims(name: str) -> str | None:
    """The YAML text of the claims that come with a grid; None where it has none."""
    file = resources.files(__name__) / f"{name}{CLAIMS}"
    return file.read_text() if file.is_file() else None


def summaries() -> dict[str, str]:
    """{name: the comment at the top of its file}: what each grid is for."""
    found = {}
    for name, text in named_grids().items():
        lines = text.splitlines()
        end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        found[name] = " ".join(line.removeprefix("#").strip() for line in lines[:end])
    return found
