"""METRICS: every name that a probe yields, with its unit, range, better side and meaning.

    python -m trainers.probes.names                           # the glossary, as Markdown
    python -m trainers.probes.names --write docs/metrics.md   # between its two glossary comments

A new metric is one entry of two lines in `trainers.probes.glossary`. Words in capitals in a name
stand for parts of it: see WORDS. In a record, names begin with `test/` for a student and
`teacher/` for its teacher.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from shards.arms import ARMS
from shards.support.command import command, make_parser
from trainers.probes.glossary import TABLE

Direction = Literal["higher", "lower", "neither"]
ARROWS: dict[str, str] = {"higher": "↑", "lower": "↓", "neither": ""}
PREFIXES = ("test/", "teacher/")
BEGIN, END = "<!-- glossary -->", "<!-- /glossary -->"
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
ENDS = "low|high"
RANKS = "effective|roy_vetterli|participation"
FREQUENCY = f"band_noise/{NUMBER}/[1-8]|(?:low|high)_pass/{NUMBER}"
WORDS = {  # what a word in capitals stands for, and the expression that it matches
    "ARM": ("a corruption's path: `noise/pixel/0.1`, `corruption/fog/3`, `crop_flip/4`", ""),
    "BAND": ("a band or filter's: `band_noise/0.1/4`, `low_pass/0.5`, `high_pass/0.25`", FREQUENCY),
    "ANY": ("either of the two", ""),
    "SPACE": ("`pixel` or `paper` (after normalisation)", "pixel|paper"),
    "KIND": ("`corruption` (computed here) or `stored` (CIFAR-10-C's files)", "corruption|stored"),
    "MEASURE": ("`effective`, `roy_vetterli` or `participation`", RANKS),
    "PROTOCOL": ("`paper` or `standard`", "paper|standard"),
    "END": ("`low` or `high`", ENDS),
    "K": ("a number of dimensions", NUMBER),
    "P": ("per cent", NUMBER),
    "S": ("a strength", NUMBER),
    "COUNT": ("a number of images", NUMBER),
}


@dataclass(frozen=True)
class Metric:
    """One line of the glossary; `pattern` is a name, perhaps with words in capitals."""

    pattern: str
    probe: str
    unit: str
    range: str
    direction: Direction
    meaning: str

    def matches(self, name: str) -> bool:
        """Whether `name`, without test/ or teacher/, is one of this metric's."""
        words = [_expression(w) if w in WORDS else re.escape(w) for w in self.pattern.split("/")]
        return re.fullmatch("/".join(words), name) is not None


def _expression(word: str) -> str:
    """What a word in capitals matches, as a group."""
    if word == "ANY":
        return f"(?:{_expression('ARM')}|{FREQUENCY})"
    return f"(?:{_arms() if word == 'ARM' else WORDS[word][1]})"


def _arms() -> str:
    """Paths of all arms that are no band and no filter; most are the arm's name and a strength."""
    names = "|".join(name for name in ARMS if name not in ("noise", "stored", "fourier"))
    return (
        f"noise/(?:pixel|paper)/{NUMBER}|(?:corruption|stored)/[a-z_0-9]+/[1-5]|"
        f"(?!{FREQUENCY})(?:{names})(?:/{NUMBER})?"
    )


def parse(table: str) -> tuple[Metric, ...]:
    """TABLE -> its entries. Raises: ValueError for an entry that is not as the module says."""
    lines = [line for line in table.splitlines() if line.strip()]
    metrics: list[Metric] = []
    for head, meaning in zip(lines[::2], lines[1::2], strict=True):
        fields = [field.strip() for field in head.split("|")]
        if len(fields) != 5 or fields[4] not in ARROWS or not meaning.startswith("    "):
            raise ValueError(f"metric `{head}`: expected NAME | PROBE | UNIT | RANGE | DIRECTION")
        pattern, probe, unit, reach, direction = fields
        for word in pattern.split("/"):
            if word.isupper() and len(word) > 1 and word not in WORDS:
                raise ValueError(f"metric `{pattern}`: `{word}` is not in WORDS")
        side = cast("Direction", direction)
        metrics.append(Metric(pattern, probe, unit, reach, side, meaning.strip()))
    return tuple(metrics)


METRICS = parse(TABLE)


@functools.lru_cache(maxsize=4096)
def metric_of(name: str) -> Metric | None:
    """The entry of a metric, with or without test/ or teacher/; None for a probe of your own.

    Raises: ValueError where two entries claim the name.
    """
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    found = [metric for metric in METRICS if metric.matches(name)]
    if len(found) > 1:
        claims = ", ".join(metric.pattern for metric in found)
        raise ValueError(f"metric `{name}`: claimed by {claims}; keep one")
    return found[0] if found else None


def arrow(name: str) -> str:
    """`↑` where higher is better, `↓` where lower is, else nothing."""
    metric = metric_of(name)
    return ARROWS[metric.direction] if metric else ""


# ---- the glossary ----


def glossary() -> str:
    """METRICS as a Markdown table, one line a metric, and what the words in capitals stand for."""
    rows = ["| metric | probe | unit | range | | what it is |", "|---|---|---|---|---|---|"]
    for m in METRICS:
        cells = (f"`{m.pattern}`", m.probe, m.unit, m.range, ARROWS[m.direction], m.meaning)
        rows.append("| " + " | ".join(cells) + " |")
    words = "; ".join(f"`{word}` {meaning}" for word, (meaning, _) in WORDS.items())
    about = "↑ higher is better, ↓ lower is; no arrow: neither by itself. "
    about += "A rank is 0 where nothing varies; an array is in a trial's record alone. "
    return "\n".join([*rows, "", f"{about}In names: {words}.", ""])


def with_glossary(text: str, place: str) -> str:
    """`text` with the glossary between its two comments. Raises: ValueError without them."""
    parts = re.split(f"({re.escape(BEGIN)}\n|{re.escape(END)})", text)
    if len(parts) != 5 or parts[1] != f"{BEGIN}\n" or parts[3] != END:
        raise ValueError(f"{place}: expected `{BEGIN}` on a line, and below it `{END}`, once each")
    return "".join([*parts[:2], glossary(), *parts[3:]])


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.probes.names", __doc__)
    parser.add_argument("--write", metavar="FILE", help="put it into a Markdown file")
    options = parser.parse_args(argv)
    if options.write is None:
        print(glossary(), end="")
        return 0
    path = Path(options.write)
    text = path.read_text(encoding="utf-8")
    path.write_text(with_glossary(text, options.write), encoding="utf-8")
    return 0


if __name__ == "__main__":
    main()
