"""The glossary: every metric's name, with its unit, range, direction and meaning.

    python -m trainers.probes.names                           # print the glossary as Markdown
    python -m trainers.probes.names --write docs/metrics.md   # update a page that contains it

Metrics are described beside the probe that yields them (see `trainers.probes.glossary`), so the
glossary holds those of every registered probe. Recorded names begin with `test/` for a student and
`teacher/` for its teacher.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from shards.support.command import command, make_parser
from trainers.probes import PROBES
from trainers.probes.glossary import ARROWS, TRAINING, WORDS, Metric, parse

PREFIXES = ("test/", "teacher/")
BEGIN, END = "<!-- glossary -->", "<!-- /glossary -->"
Texts = tuple[tuple[str, str], ...]


def metrics() -> tuple[Metric, ...]:
    """All metrics, in the order of the table of probes, then those of training."""
    return _parsed(_texts())


def _texts() -> Texts:
    """((probe, its metrics as text), ...): hashable, and up to date when a probe is registered."""
    return (*((name, probe.metrics) for name, probe in PROBES.items()), *TRAINING.items())


@functools.lru_cache(maxsize=4)
def _parsed(texts: Texts) -> tuple[Metric, ...]:
    return tuple(metric for probe, text in texts for metric in parse(probe, text))


def metric_of(name: str) -> Metric | None:
    """The entry of a metric, with or without test/ or teacher/; None where it has none.

    Raises: ValueError where two entries match the name.
    """
    return _metric_of(name, _texts())


@functools.lru_cache(maxsize=4096)
def _metric_of(name: str, texts: Texts) -> Metric | None:
    bare = name
    for prefix in PREFIXES:
        bare = bare.removeprefix(prefix)
    bare = bare.replace("curve/validation/", "curve/", 1).removeprefix("curve/test/")
    found = [metric for metric in _parsed(texts) if metric.matches(bare)]
    if len(found) > 1:
        patterns = ", ".join(metric.pattern for metric in found)
        raise ValueError(f"metric `{name}`: matches {patterns}; keep one")
    return found[0] if found else None


def arrow(name: str) -> str:
    """`↑` where higher is better, `↓` where lower is better, else an empty string."""
    metric = metric_of(name)
    return ARROWS[metric.direction] if metric else ""


# ---- as Markdown ----


def glossary() -> str:
    """A Markdown table, one line a metric, and what the words in capitals stand for."""
    rows = ["| metric | probe | unit | range | | what it is |", "|---|---|---|---|---|---|"]
    for m in metrics():
        cells = (f"`{m.pattern}`", m.probe, m.unit, m.range, ARROWS[m.direction], m.meaning)
        rows.append("| " + " | ".join(cells) + " |")
    words = "; ".join(f"`{word}` {meaning}" for word, (meaning, _) in WORDS.items())
    about = "↑ higher is better, ↓ lower is; no arrow: neither by itself. "
    about += "A rank is 0 where nothing varies; an array is in a trial's result.json alone. "
    about += "Curves of a trial with `validation_samples` are `curve/validation/...`; with "
    about += "`probe_at`, `curve/test/...` are values of the probes at those times. "
    return "\n".join([*rows, "", f"{about}In names: {words}.", ""])


def with_glossary(text: str, path: str) -> str:
    """`text` with the glossary between its two comments. Raises: ValueError without them."""
    parts = re.split(f"({re.escape(BEGIN)}\n|{re.escape(END)})", text)
    if len(parts) != 5 or parts[1] != f"{BEGIN}\n" or parts[3] != END:
        raise ValueError(f"{path}: expected `{BEGIN}` on a line, and below it `{END}`, once each")
    return "".join([*parts[:2], glossary(), *parts[3:]])


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.probes.names", __doc__)
    parser.add_argument(
        "--write",
        metavar="FILE",
        help=f"replace what a Markdown file has between `{BEGIN}` and `{END}`",
    )
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
