"""Write a bank as ordinary WebDataset shards: one sample per member name, for other tools.

    python -m shards.export bank --per-sample --out bank-wds
    python -m shards.export s3://bucket/bank --per-sample --out s3://bucket/wds --split train

Each sample is NNNNNNNNN.png, .cls, .json (key, label, class, the views of each arm), .params.npy
(V, P), and of each teacher T .embedding.T.npy (V, D) and .norm.T.npy (V,), in train-000000.tar,
train-000001.tar, ... The same bank gives the same bytes. classnames.txt comes last: where it is,
the export is whole. `wds:OUT/{split}-*.tar` reads it back.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib import format as npy

from shards.bank.manifest import Manifest
from shards.bank.reader import Shard, iter_shards, load_manifest
from shards.datasets.base import SPLITS
from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.progress import Progress

CLASS_NAMES = "classnames.txt"
Members = dict[str, bytes]
Encoder = Callable[[np.ndarray], bytes]


def export(
    location: str,
    out: str,
    splits: tuple[str, ...] = SPLITS,
    shard_samples: int = 1000,
    image: str = "png",
) -> dict[str, int]:
    """Write the bank at `location` into the empty or new folder `out`: samples by split.

    Memory: one shard of the bank and one of the export. Raises: ValueError where the bank is not
    whole or `out` holds anything; OSError.
    """
    manifest = load_manifest(location)
    there = storage.names(out)
    if there:
        raise ValueError(
            f"--out {out}: not empty (holds {there[0]}); choose another folder or delete this one"
        )
    if shard_samples < 1:
        raise ValueError(f"--shard-samples: {shard_samples}; expected 1 or more")
    counts = {split: manifest.plan.dataset.counts[split] for split in splits}
    done = 0
    with Progress("export", sum(counts.values())) as bar:
        for split in splits:
            samples = _samples(location, manifest, split, *IMAGES[image])
            for index in range(-(-counts[split] // shard_samples)):
                data, count = _tar(samples, index * shard_samples, shard_samples)
                storage.write(storage.join(out, f"{split}-{index:06d}.tar"), data)
                done += count
                bar.update(done)
    names = "".join(f"{' '.join(name.split())}\n" for name in manifest.plan.dataset.classes)
    storage.write(storage.join(out, CLASS_NAMES), names.encode())
    return counts


def _samples(
    location: str, manifest: Manifest, split: str, suffix: str, encode: Encoder
) -> Iterator[Members]:
    """The members of each sample of a split, by suffix."""
    arms = [
        {"arm": arm.arm, "start": arm.start, "stop": arm.stop, "columns": arm.columns}
        for arm in manifest.plan.arms[split]
    ]
    for shard in iter_shards(location, manifest, split):
        for row in range(shard.record.samples):
            members = {suffix: encode(shard.arrays["image"][row])}
            yield members | _rest(shard, row, manifest.plan.dataset.classes, arms)


def _rest(shard: Shard, row: int, classes: tuple[str, ...], arms: list[dict]) -> Members:
    label = int(shard.arrays["label"][row])
    told = {"key": shard.keys[row], "label": label, "class": classes[label], "arms": arms}
    columns = [name for name in shard.arrays if name not in ("image", "label")]
    return {
        "cls": str(label).encode(),
        "json": json.dumps(told).encode(),
        **{f"{name}.npy": _npy(shard.arrays[name][row]) for name in columns},
    }


def _tar(samples: Iterator[Members], first: int, most: int) -> tuple[bytes, int]:
    """The next `most` samples at most, numbered from `first`: the bytes of a tar, and how many."""
    buffer, count = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for members in (sample for _, sample in zip(range(most), samples, strict=False)):
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{first + count:09d}.{suffix}")
                info.size, info.mtime, info.mode = len(data), 0, 0o644
                tar.addfile(info, io.BytesIO(data))
            count += 1
    return buffer.getvalue(), count


def _png(image_HWC: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "png")
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
    return buffer.getvalue()


IMAGES: dict[str, tuple[str, Encoder]] = {"png": ("png", _png), "npy": ("image.npy", _npy)}


@command
def main(argv: list[str]) -> int:
    parser = make_parser("shards.export", __doc__)
    add = parser.add_argument
    add("bank", help="folder or URL of a finished bank")
    add("--per-sample", action="store_true", help="required: the one layout there is so far")
    add("--out", required=True, metavar="DIR-OR-URL", help="an empty or new folder")
    add("--split", choices=SPLITS, help="one split alone; default: all")
    add("--shard-samples", type=int, default=1000, metavar="N", help="default 1000")
    add("--image", choices=tuple(IMAGES), default="png", help="default png; npy is not compressed")
    options = parser.parse_args(argv)
    if not options.per_sample:
        raise ValueError("--per-sample: missing; it is the one layout there is so far, add it")
    splits = (options.split,) if options.split else SPLITS
    counts = export(options.bank, options.out, splits, options.shard_samples, options.image)
    print(", ".join(f"{count:,} {split} samples" for split, count in counts.items()), end="")
    print(f" -> {options.out}")
    return 0


if __name__ == "__main__":
    main()
