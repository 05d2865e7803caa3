"""The format in which metrics are described, and descriptions of metrics that no probe yields.

A probe's metrics are described in its own file, in two lines each:

    NAME | UNIT | RANGE | higher, lower or neither is better
        what it is, in one line

Words in capitals in a NAME stand for parts of it, see `WORDS`. N test images, D dimensions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from shards.arms import ARMS

Direction = Literal["higher", "lower", "neither"]
ARROWS: dict[str, str] = {"higher": "↑", "lower": "↓", "neither": ""}

NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
ENDS = "low|high"
RANKS = "effective|roy_vetterli|participation"
FREQUENCY = f"band_noise/{NUMBER}/[1-8]|(?:low|high)_pass/{NUMBER}"
WORDS = {  # {word in capitals: (what it stands for, the expression that it matches)}
    "ARM": ("a corruption's path: `noise/pixel/0.1`, `corruption/fog/3`, `crop_flip/4`", ""),
    "BAND": ("a band or filter's: `band_noise/0.1/4`, `low_pass/0.5`, `high_pass/0.25`", FREQUENCY),
    "ANY": ("either of the two", ""),
    "SPACE": ("`pixel` or `paper` (after normalisation)", "pixel|paper"),
    "KIND": ("`corruption` (computed) or `stored` (CIFAR-10-C's files)", "corruption|stored"),
    "MEASURE": ("`effective`, `roy_vetterli` or `participation`", RANKS),
    "PROTOCOL": ("`paper` or `standard`", "paper|standard"),
    "ADAPTED": (
        "`refitted`, `recalibrated` or `recalibrated_refitted`",
        "refitted|recalibrated(?:_refitted)?",
    ),
    "END": ("`low` or `high`", ENDS),
    "K": ("a number of dimensions", NUMBER),
    "P": ("per cent", NUMBER),
    "S": ("a strength", NUMBER),
    "COUNT": ("a number of images", NUMBER),
}

# {source: metrics} of what is recorded while a student trains, by no probe.
TRAINING = {
    "curves": """
curve/rank/effective | dimensions | 1 to D | neither
    during training, of a fixed subset: compare with the teacher's of the same images
curve/rank/participation | dimensions | 1 to D | neither
    during training, of a fixed subset
curve/spectrum/K | share | 0 to 1 | neither
    during training: share of the variance in the first K components of a fixed subset
curve/cosine_to_teacher | cosine | -1 to 1 | higher
    during training, of a fixed subset
curve/alignment | squared distance | 0 to 4 | lower
    during training, of a fixed subset: squared distance to the teacher's embeddings
curve/uniformity | ln | -8 to 0 | neither
    during training, of a fixed subset
curve/ridge/accuracy | share | 0 to 1 | higher
    during training: accuracy of least squares on one-hot labels, of a fixed subset
curve/epoch | epochs | 0 upwards | neither
    the epoch at which that was measured
""",
    "training": """
train/loss | of the objective | real | lower
    mean over an epoch
train/epoch | epochs | 0 upwards | neither
    the epoch at which that was measured
""",
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
    """Paths of all arms that are no band and no filter; most are the arm's name and its options."""
    names = "|".join(name for name in ARMS if name not in ("noise", "stored", "fourier"))
    return (
        f"noise/(?:pixel|paper)/{NUMBER}|(?:corruption|stored)/[a-z_0-9]+/[1-5]|"
        f"(?!{FREQUENCY})(?:{names})(?:/{NUMBER})*"
    )


def parse(probe: str, text: str) -> tuple[Metric, ...]:
    """The entries of `text`, all of one probe. Raises: ValueError for text in another format."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) % 2:
        raise ValueError(f"metrics of `{probe}`: {len(lines)} lines; each metric has two")
    metrics: list[Metric] = []
    for head, meaning in zip(lines[::2], lines[1::2], strict=True):
        fields = [field.strip() for field in head.split("|")]
        if len(fields) != 4 or fields[3] not in ARROWS or not meaning.startswith("    "):
            raise ValueError(
                f"metric `{head}` of `{probe}`: expected NAME | UNIT | RANGE | DIRECTION, and "
                "below it, indented, what it is"
            )
        pattern, unit, reach, direction = fields
        for word in pattern.split("/"):
            if word.isupper() and len(word) > 1 and word not in WORDS:
                raise ValueError(f"metric `{pattern}` of `{probe}`: `{word}` is not in WORDS")
        side = cast("Direction", direction)
        metrics.append(Metric(pattern, probe, unit, reach, side, meaning.strip()))
    return tuple(metrics)
