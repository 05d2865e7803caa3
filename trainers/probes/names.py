"""METRICS: every name that a probe yields, with its unit, range, better side and meaning.

    python -m trainers.probes.names                     # the glossary, as Markdown
    python -m trainers.probes.names --write README.md   # between its two glossary comments

A new metric is one entry of two lines in TABLE:

    NAME | PROBE | UNIT | RANGE | higher, lower or neither is better
        what it is, in one line

Words in capitals in a name stand for any one part of it: see WORDS. In a record, names begin with
`test/` for a student and `teacher/` for its teacher.
"""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from shards.arms import ARMS
from shards.command import command

Direction = Literal["higher", "lower", "neither"]
ARROWS: dict[str, str] = {"higher": "↑", "lower": "↓", "neither": ""}
PREFIXES = ("test/", "teacher/")
BEGIN, END = "<!-- glossary -->", "<!-- /glossary -->"
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
WORDS = {  # what a word in capitals stands for, and the expression that it matches
    "P": ("per cent", NUMBER),
    "S": ("strength of a corruption", NUMBER),
    "SPACE": ("`pixel` or `paper` (after normalisation)", "pixel|paper"),
    "ARM": ("any other arm's name", ""),  # in ARMS, see `_fits`
}
TABLE = """
rank/effective | spectrum | dimensions | 1 to min(N - 1, D) | neither
    exp of the entropy of the shares of variance (the paper's effective rank)
rank/roy_vetterli | spectrum | dimensions | 1 to min(N - 1, D) | neither
    the same of the shares of singular values (Roy and Vetterli)
rank/rankme | spectrum | dimensions | 1 to min(N, D) | neither
    RankMe: of the singular values of the embeddings as they are, not centred
rank/participation | spectrum | dimensions | 1 to min(N - 1, D) | neither
    participation ratio, tr(C)^2 / tr(C^2)
dims/P | spectrum | dimensions | 0 to D | neither
    fewest principal components that hold P % of the variance
cosine_to_teacher | spectrum | cosine | -1 to 1 | higher
    mean cosine of an image's embedding to the teacher's of the same image
spectrum | spectrum | shares | 0 to 1, sum 1 | neither
    array: the shares of variance of the principal components, largest first
linear/paper/accuracy | linear | share | 0 to 1 | higher
    logistic regression on clean train embeddings (C = 1, unit vectors), right on clean test images
noise/SPACE/S/accuracy | robustness | share | 0 to 1 | higher
    that classifier, right under Gaussian noise of S; mean over draws
noise/SPACE/S/cosine | robustness | cosine | -1 to 1 | higher
    mean cosine of an image's embedding under that noise to its clean one
ARM/accuracy | robustness | share | 0 to 1 | higher
    that classifier, right under an arm without strength
ARM/cosine | robustness | cosine | -1 to 1 | higher
    mean cosine of an image's embedding under that arm to its clean one
ARM/S/accuracy | robustness | share | 0 to 1 | higher
    that classifier, right under an arm of strength S; mean over draws
ARM/S/cosine | robustness | cosine | -1 to 1 | higher
    mean cosine of an image's embedding under that arm to its clean one
infonce/paper | infonce | nats | 0 upwards | lower
    InfoNCE, student against teacher, batches of 64, temperature 0.1; ln 64 if nothing is told
infonce/full | infonce | nats | 0 upwards | lower
    the same with all N test images in one batch; ln N if nothing is told
infonce/bound | infonce | nats | up to ln N | higher
    ln N minus infonce/full: at least so much of the teacher is told by the student
infonce/retrieval1 | infonce | share | 0 to 1 | higher
    how often the teacher's embedding nearest to the student's is that of the same image
alignment | infonce | squared distance | 0 to 4 | lower
    mean squared distance of an image's embedding to the teacher's of the same image
uniformity | infonce | ln | -8 to 0 | neither
    ln of the mean of exp(-2 d^2) over distinct pairs (Wang and Isola); lower is more spread out
uniformity/paper | infonce | ln | -8 to 0 | neither
    the same as the paper has it: self-pairs included, in batches of 64
"""


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
        parts, found = self.pattern.split("/"), name.split("/")
        return len(parts) == len(found) and all(map(_fits, parts, found))


def _fits(word: str, part: str) -> bool:
    if not word.isupper():
        return word == part
    if word == "ARM":
        return part in ARMS and part != "noise"
    return re.fullmatch(WORDS[word][1], part) is not None


def parse(table: str) -> tuple[Metric, ...]:
    """TABLE -> its entries. Errors: ValueError for an entry that is not as the module says."""
    lines = [line for line in table.splitlines() if line.strip()]
    metrics: list[Metric] = []
    for head, meaning in zip(lines[::2], lines[1::2], strict=True):
        fields = [field.strip() for field in head.split("|")]
        if len(fields) != 5 or fields[4] not in ARROWS or not meaning.startswith("    "):
            raise ValueError(f"metric `{head}`: expected NAME | PROBE | UNIT | RANGE | DIRECTION")
        pattern, probe, unit, reach, direction = fields
        for word in pattern.split("/"):
            if word.isupper() and word not in WORDS:
                raise ValueError(f"metric `{pattern}`: `{word}` is not in WORDS")
        side = cast("Direction", direction)
        metrics.append(Metric(pattern, probe, unit, reach, side, meaning.strip()))
    return tuple(metrics)


METRICS = parse(TABLE)


@functools.lru_cache(maxsize=4096)
def metric_of(name: str) -> Metric | None:
    """The entry of a metric, with or without test/ or teacher/; None for a probe of your own.

    Errors: ValueError where two entries claim the name.
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
    return "\n".join([*rows, "", f"{about}In names: {words}.", ""])


def with_glossary(text: str, place: str) -> str:
    """`text` with the glossary between its two comments. Errors: ValueError without them."""
    parts = re.split(f"({re.escape(BEGIN)}\n|{re.escape(END)})", text)
    if len(parts) != 5 or parts[1] != f"{BEGIN}\n" or parts[3] != END:
        raise ValueError(f"{place}: expected `{BEGIN}` on a line, and below it `{END}`, once each")
    return "".join([*parts[:2], glossary(), *parts[3:]])


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m trainers.probes.names",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
