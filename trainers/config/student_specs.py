"""The arguments of student specs, and their spellings: read here without torch.

width:W          the paper's CNN with 16 W, 32 W and 64 W channels
params:P         the same CNN, with P parameters; P is a decimal with K or M
teacher_pca:K    the teacher's embeddings in K dimensions
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal

from shards.support.registry import split_spec

BASE_CHANNELS = (16, 32, 64)  # of the three convolutions at width 1
LEAST_CHANNELS = 4  # of the first convolution
LEAST_WIDTH = (LEAST_CHANNELS - 0.5) / BASE_CHANNELS[0]  # 0.21875 rounds to 4, 7, 14 channels
MOST_WIDTH = 64.0  # 1,024 to 4,096 channels; a larger width is most likely a typing error
DECIMAL = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
SUFFIXES = {"K": 1_000, "M": 1_000_000}
NO_NETWORK = "teacher_pca"


def cnn_channels(width: float) -> tuple[int, int, int]:
    """16 w, 32 w and 64 w, each rounded to the nearest integer (halves up)."""
    c1, c2, c3 = (math.floor(base * width + 0.5) for base in BASE_CHANNELS)
    return c1, c2, c3


def width_of(argument: str) -> float:
    """W of `width:W`. Raises: ValueError where it is no positive decimal, or out of range."""
    spec = f"student `width:{argument}`"
    if not re.fullmatch(DECIMAL, argument) or float(argument) == 0:
        raise ValueError(f"{spec}: the width must be a positive decimal, such as width:1")
    width = float(argument)
    if width < LEAST_WIDTH:
        raise ValueError(
            f"{spec}: leaves {cnn_channels(width)[0]} channels in the first convolution, at least "
            f"{LEAST_CHANNELS} are needed; the smallest possible is width:{LEAST_WIDTH}"
        )
    if width > MOST_WIDTH:
        raise ValueError(f"{spec}: the largest possible is width:{MOST_WIDTH:g}")
    return width


def budget_of(argument: str) -> float:
    """P of `params:P`, in parameters. Raises: ValueError for another form."""
    match = re.fullmatch(f"({DECIMAL})([KM])", argument)
    if not match or float(match[1]) == 0:
        raise ValueError(
            f"student `params:{argument}`: the budget must be a positive decimal and K or M "
            "(thousands or millions of parameters), such as params:500K or params:2M"
        )
    return float(match[1]) * SUFFIXES[match[2]]


def components_of(argument: str) -> int:
    """K of `teacher_pca:K`. Raises: ValueError where it is not a whole number of 1 or more."""
    if not re.fullmatch(r"[0-9]{1,9}", argument) or int(argument) == 0:
        spec = f"{NO_NETWORK}:{argument}"
        raise ValueError(f"student `{spec}`: write {NO_NETWORK}:K, K a whole number of 1 or more")
    return int(argument)


# {name: what reads its argument}, of those that need nothing else to tell whether it is right.
READERS: dict[str, Callable[[str], float]] = {
    "width": width_of,
    "params": budget_of,
    NO_NETWORK: components_of,
}


def check_student(spec: str) -> None:
    """Check the argument of a spec. Raises: ValueError as the functions above."""
    name, argument = split_spec(spec)
    if name in READERS:
        READERS[name](argument)


def canonical_width(argument: str) -> str:
    """`1.0` -> `1`; text that is not a decimal is returned unchanged, and refused later."""
    if not re.fullmatch(DECIMAL, argument):
        return argument
    return f"{Decimal(argument).normalize():f}"


def canonical_budget(argument: str) -> str:
    """`500K` -> `0.5M`; text that is not a budget is returned unchanged, and refused later."""
    if not (match := re.fullmatch(f"({DECIMAL})([KM])", argument)):
        return argument
    millions = Decimal(match[1]) * SUFFIXES[match[2]] / SUFFIXES["M"]
    return f"{millions.normalize():f}M"


def canonical_components(argument: str) -> str:
    """`016` -> `16`. Raises: ValueError as `components_of`."""
    return str(components_of(argument))
