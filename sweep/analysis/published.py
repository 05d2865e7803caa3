"""Claims held against numbers that a paper has published."""

from __future__ import annotations

from importlib import resources
from typing import Any

from shards.support.yaml_reader import parse_mapping
from sweep.analysis.claims import Claims
from sweep.analysis.values import PublishedValues
from sweep.analysis.verdicts import Verdict, verdicts_of

PAPER = "paper_v1.yaml"


def paper_numbers() -> dict[str, Any]:
    """The published numbers of arXiv 2603.06698 v1: {source, ddof, groups}."""
    text = (resources.files("sweep.analysis") / PAPER).read_text()
    return parse_mapping(text, PAPER)


def published_values(numbers: dict[str, Any]) -> PublishedValues:
    """Values to test claims on; `numbers` as `paper_numbers` returns them."""
    return PublishedValues(numbers["groups"], numbers["ddof"])


def published_verdicts(claims: Claims, numbers: dict[str, Any]) -> list[Verdict]:
    """The verdicts that claims would have got from the published means and deviations alone.

    Welch's test on mean, deviation (converted to ddof = 1) and n. A claim about a number without a
    deviation is untestable. Values of single seeds are not published, so there is no exact check,
    no pairing and no floor.
    """
    return verdicts_of(claims, published_values(numbers))
