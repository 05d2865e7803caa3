"""Options in a spec, such as `sigma` in `noise[:SIGMA]`: their ranges, and what is out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One option in an arm's spec, such as `sigma` in `noise[:SIGMA]`.

    Its value is a number in [low, high], or in (low, high] if `above`; a whole number if `integer`.
    `unit` appears in error messages.
    """

    name: str
    default: float
    low: float
    high: float
    above: bool = False
    integer: bool = False
    unit: str = ""

    def parse(self, spec: str, text: str) -> float:
        """The value that `text` spells; the default for an empty text.

        Raises: ValueError naming the spec, the text and the valid range.
        """
        if self.integer:
            return self._whole(spec, text)
        return number(spec, text, self.default, self.low, self.high, self.above, self.name)

    def _whole(self, spec: str, text: str) -> int:
        try:
            value = float(text) if text else self.default
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or value != int(value):
            unit = f"of {self.unit} " if self.unit else ""
            raise ValueError(
                f"arm `{spec}`: {self.name} `{text}` must be a whole number "
                f"{unit}from {self.low:g} to {self.high:g}"
            )
        return int(value)


def parse_options(options: Sequence[Option], spec: str, argument: str) -> dict[str, float]:
    """{option: value} of the arm `NAME[:ARGUMENT]`, whose argument is `VALUE[:VALUE...]`.

    Raises: ValueError for a value that is out of range, or too many values.
    """
    if argument and not options:
        raise ValueError(f"arm `{spec}`: `{spec.partition(':')[0]}` takes no option")
    # Surplus colons stay in the last option's text, whose parser then rejects them.
    texts = argument.split(":", len(options) - 1) if argument else []
    texts += [""] * (len(options) - len(texts))
    pairs = zip(options, texts, strict=True)
    return {option.name: option.parse(spec, text) for option, text in pairs}


def number(
    spec: str,
    text: str,
    default: float,
    low: float,
    high: float,
    above: bool = False,
    name: str = "strength",
) -> float:
    """Parse an option's value, rounded to the six significant digits of a canonical spec.

    The rounding makes the arm that a spec names and the arm that its canonical spec names the same.
    Raises: ValueError where it is not in [low, high], or in (low, high] if `above`.
    """
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = math.nan
    if not low <= value <= high or (above and value == low):
        bracket = "(" if above else "["
        raise ValueError(
            f"arm `{spec}`: {name} `{text}` must be a number in {bracket}{low}, {high}]"
        )
    return abs(float(f"{value:g}"))  # abs turns -0 into 0, which would be a second spelling of it
