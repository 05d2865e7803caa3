"""Export a bank as ordinary WebDataset shards, for tools that expect one file per sample.

    python -m shards.export bank --out bank-wds
    python -m shards.export s3://bucket/bank --out s3://bucket/wds --split train

The files train-000000.tar, train-000001.tar, ... contain for each sample NNNNNNNNN.png, .cls (the
label), .json (key, label, class, and the range of views of each arm), .params.npy (V, P), and for
each teacher T .embedding.T.npy (V, D) and .norm.T.npy (V,), over V views with P parameters. The
same bank gives the same bytes. classnames.txt is written last: if it exists, the export is
complete. `--dataset wds:OUT/{split}-*.tar` reads an export back.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib import format as npy

from shards.bank.manifest import Manifest
from shards.bank.members import Array, add_member
from shards.bank.reader import Shard, iter_shards, load_manifest
from shards.datasets.base import SPLITS
from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.progress import Progress
from shards.support.registry import CONTROL

CLASS_NAMES = "classnames.txt"
Sample = dict[str, bytes]  # suffix -> content of one member
Encoder = Callable[[Array], bytes]


def export(
    location: str,
    out: str,
    splits: tuple[str, ...] = SPLITS,
    shard_samples: int = 1000,
    image: str = "png",
) -> dict[str, int]:
    """Export the bank at `location` to the empty or new folder `out`; returns samples by split.

    shard_samples: samples per tar file. image: a key of IMAGES. One shard of the bank and one of
    the export are in memory at a time.
    Raises: ValueError where the bank is incomplete, a class of it has no name that a line can hold,
    or `out` is not empty; OSError.
    """
    manifest = load_manifest(location)
    names = _lines(manifest.plan.dataset.classes, location)
    existing = storage.names(out)
    if existing:
        raise ValueError(
            f"--out {out}: not empty (contains {existing[0]}); choose another folder or delete it"
        )
    if shard_samples < 1:
        raise ValueError(f"--shard-samples: {shard_samples}; expected 1 or more")
    counts = {split: manifest.plan.dataset.counts[split] for split in splits}
    suffix, encode = IMAGES[image]
    done = 0
    with Progress("export", sum(counts.values())) as bar:
        for split in splits:
            samples = _samples(location, manifest, split, suffix, encode)
            for index in range(-(-counts[split] // shard_samples)):
                data, count = _tar(samples, index * shard_samples, shard_samples)
                storage.write(storage.join(out, f"{split}-{index:06d}.tar"), data)
                done += count
                bar.update(done)
    storage.write(storage.join(out, CLASS_NAMES), names.encode())
    return counts


def _lines(classes: tuple[str, ...], location: str) -> str:
    """One class a line; a line break inside a name becomes a space.

    Raises: ValueError for a name that `wds:` would refuse to read back.
    """
    names = [" ".join(name.split()) for name in classes]
    for label, name in enumerate(names):
        if not name or CONTROL.search(name):
            raise ValueError(
                f"{location}: class {label} is named {classes[label]!r}, which is no line of "
                f"{CLASS_NAMES}; name it in the data set and build the shards again"
            )
    return "".join(f"{name}\n" for name in names)


def _samples(
    location: str, manifest: Manifest, split: str, suffix: str, encode: Encoder
) -> Iterator[Sample]:
    """The samples of a split in order; the image under `suffix`, encoded by `encode`."""
    arms: list[dict[str, object]] = [
        {"arm": arm.arm, "start": arm.start, "stop": arm.stop, "columns": arm.columns}
        for arm in manifest.plan.arms[split]
    ]
    for shard in iter_shards(location, manifest, split):
        for row in range(shard.record.samples):
            image = {suffix: encode(shard.arrays["image"][row])}
            yield image | _besides_image(shard, row, manifest.plan.dataset.classes, arms)


def _besides_image(
    shard: Shard, row: int, classes: tuple[str, ...], arms: list[dict[str, object]]
) -> Sample:
    """All members of a sample except its image."""
    label = int(shard.arrays["label"][row])
    about = {"key": shard.keys[row], "label": label, "class": classes[label], "arms": arms}
    columns = [name for name in shard.arrays if name not in ("image", "label")]
    return {
        "cls": str(label).encode(),
        "json": json.dumps(about).encode(),
        **{f"{name}.npy": _npy(shard.arrays[name][row]) for name in columns},
    }


def _tar(samples: Iterator[Sample], first: int, most: int) -> tuple[bytes, int]:
    """(A tar file of up to `most` of the next samples, numbered from `first`; their number)."""
    buffer, count = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in itertools.islice(samples, most):
            for suffix, data in sample.items():
                add_member(tar, f"{first + count:09d}.{suffix}", data)
            count += 1
    return buffer.getvalue(), count


def _png(image_HWC: Array) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "png")
    return buffer.getvalue()


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
    return buffer.getvalue()


# --image: (suffix, encoder).
IMAGES: dict[str, tuple[str, Encoder]] = {"png": ("png", _png), "npy": ("image.npy", _npy)}


@command
def main(argv: list[str]) -> int:
    """Run the command with the arguments `argv`; returns the exit status."""
    parser = make_parser("shards.export", __doc__)
    add = parser.add_argument
    add("bank", metavar="DIR-OR-URL", help="a complete bank")
    add("--out", required=True, metavar="DIR-OR-URL", help="empty or new folder to write to")
    add("--split", choices=SPLITS, help="export only this split (default: all)")
    add(
        "--shard-samples",
        type=int,
        default=1000,
        metavar="N",
        help="samples per tar file (default 1000)",
    )
    add(
        "--image",
        choices=tuple(IMAGES),
        default="png",
        help="format of the images: png (default), or npy, uncompressed arrays",
    )
    options = parser.parse_args(argv)
    splits = (options.split,) if options.split else SPLITS
    counts = export(options.bank, options.out, splits, options.shard_samples, options.image)
    samples = ", ".join(f"{count:,} {split} samples" for split, count in counts.items())
    print(f"{samples} -> {options.out}")
    return 0


if __name__ == "__main__":
    main()
