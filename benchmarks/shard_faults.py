"""10,000 flipped bits and random cuts over the files of a real bank: is every one noticed?

    python benchmarks/shard_faults.py [CASES]

Each case damages one file (shards and manifest, in proportion to their sizes, and each of them at
least once), reads the whole bank as a trial would, and mends it. It counts as harmless only if
every array read is what it was. Ends with 1 where damage was read unnoticed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from shards.bank.reader import load_manifest
from shards.bank.splits import Split, load_splits
from shards.building.build import build
from shards.building.request import Request


def read(place: Path) -> list[Split]:
    manifest = load_manifest(str(place))
    return [load_splits(str(place), manifest, s, ("clean",))["clean"] for s in ("train", "test")]


def same(one: list[Split], other: list[Split]) -> bool:
    return all(
        a.keys == b.keys
        and all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for name in ("images_NHWC", "labels_N", "params_NVP", "embedding_NVD", "norm_NV")
        )
        for a, b in zip(one, other, strict=True)
    )


def main() -> int:
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rng, outcomes = np.random.default_rng(0), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTIL_CACHE"] = str(Path(folder) / "cache")
        place = Path(folder) / "bank"
        request = Request(
            dataset="digits", teachers=("embedded",), train_samples=24, test_samples=10,
            shard_samples=12,
        )  # fmt: skip
        build(request, str(place))
        good = read(place)
        files = [place / "manifest.json", *sorted(place.glob("*.tar"))]
        content = {file: file.read_bytes() for file in files}
        sizes = np.array([len(content[file]) for file in files], dtype=float)
        start = time.perf_counter()
        for case in range(cases):
            file = files[case] if case < len(files) else rng.choice(files, p=sizes / sizes.sum())
            data = bytearray(content[file])
            if case % 4 == 3:
                kind = "cut"
                del data[int(rng.integers(len(data))) :]
            else:
                kind = "flip"
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            try:
                outcome = "harmless" if same(read(place), good) else "UNNOTICED"
            except ValueError:
                outcome = "refused"
            outcomes[f"{kind} {outcome}"] += 1
            file.write_bytes(content[file])
        seconds = time.perf_counter() - start
    print(f"{cases:,} cases in {seconds:.0f} s over {len(files)} files: {dict(outcomes)}")
    return int(any("UNNOTICED" in name for name in outcomes))


if __name__ == "__main__":
    sys.exit(main())
