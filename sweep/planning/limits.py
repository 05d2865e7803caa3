"""What a sweep may take: an amount of money, and a time by which its trials are to have ended."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Z]{3})?")


@dataclass(frozen=True)
class Limits:
    """money: of the whole sweep, earlier starts included. deadline: seconds since 1970."""

    money: float | None = None
    deadline: float | None = None


def read_budget(text: str, currency: str) -> float:
    """`50USD` or `50`, in the currency of the prices. Raises: ValueError for anything else."""
    match = AMOUNT.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"--budget {text}: expected an amount above 0, such as 50{currency}")
    if match[2] not in (None, currency):
        raise ValueError(
            f"--budget {text}: the prices are in {currency}; write {match[1]}{currency}, or give "
            f"--prices in {match[2]}"
        )
    return float(match[1])


def read_deadline(text: str, now: float) -> float:
    """Seconds since 1970 of a duration from `now` (`6h`, `1h30m`), or of an ISO time.

    A time without a zone is local. Raises: ValueError for anything else, or a time that is over.
    """
    if DURATION.fullmatch(text):
        parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
        end = now + sum(float(number) * UNITS[unit] for number, unit in parts)
    else:
        try:
            end = datetime.datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise ValueError(
                f"--deadline {text}: expected a duration such as 6h or 1h30m, or a time such as "
                "2026-01-31T18:00"
            ) from None
    if end <= now:
        raise ValueError(f"--deadline {text}: this time is over; give a later one")
    return end
