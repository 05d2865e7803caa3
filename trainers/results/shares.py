"""Arrays of shares with a small common denominator, as packed bits: which test images are right.

`NAME/correct` holds, for each test image, the share of draws in which a classifier gets it right:
0 or 1, or k / V for V draws. As JSON numbers that is up to 20 bytes an image, and a trial may have
such an array for each of fifty corruptions. As text it is log2(V + 1) bits an image:

    "10000 / 3: jZ7v..."      # images / draws: base64 of the counts k, most significant bit first

Reading gives the same numbers, to the bit.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

import numpy as np

SUFFIX = "/correct"
MOST = 64  # draws, which `test_views` allows at most
FORM = re.compile(r"([0-9]{1,9}) / ([0-9]{1,2}): ([A-Za-z0-9+/=]*)")


def packed(values: Sequence[float]) -> str | None:
    """The text of shares k / V with the smallest V of at most 64; None for other numbers."""
    values_N = np.asarray(values, dtype=np.float64)
    for draws in range(1, MOST + 1):
        counts_N = np.rint(values_N * draws)
        if (counts_N / draws == values_N).all() and ((counts_N >= 0) & (counts_N <= draws)).all():
            break
    else:
        return None
    places_B = np.arange(draws.bit_length())[::-1]
    bits_NB = counts_N.astype(np.int64)[:, None] >> places_B & 1
    text = base64.b64encode(np.packbits(bits_NB.astype(np.uint8)).tobytes()).decode()
    return f"{len(values_N)} / {draws}: {text}"


def unpacked(text: str) -> list[float]:
    """The shares in such a text. Raises: ValueError, of one line, for a damaged one."""
    found = FORM.fullmatch(text)
    expected = "expected `IMAGES / DRAWS: BASE64`"
    if found is None or not int(found[2]):
        raise ValueError(f"shares: found `{text[:40]}`; {expected}")
    count, draws = int(found[1]), int(found[2])
    width = draws.bit_length()
    try:
        stored = np.frombuffer(base64.b64decode(found[3], validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"shares: {error}; {expected}") from None
    if len(stored) != -(-count * width // 8):
        raise ValueError(f"shares: {len(stored)} bytes for {count} images of {width} bits")
    bits_NB = np.unpackbits(stored, count=count * width).reshape(count, width)
    counts_N = bits_NB @ (1 << np.arange(width)[::-1])
    if count and counts_N.max() > draws:
        raise ValueError(f"shares: an image right in {counts_N.max()} of {draws} draws")
    return [float(share) for share in counts_N / draws]
