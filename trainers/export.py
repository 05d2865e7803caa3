"""Export a trained student to the format of another tool.

    python -m trainers.export runs/demo/trials/0123456789abcdef --to onnx
    python -m trainers.export s3://bucket/sweep/trials/0123456789abcdef --to timm --out student
    python -m trainers.export runs/demo/trials/0123456789abcdef/student --to torch.export \\
        --bank runs/demo/banks/0123456789abcdef --out student-pt2

TRIAL is a trial's folder, the student/ folder in it, or a copy of that; a path or a URL.

    onnx          student.onnx, read by onnxruntime
    torch.export  student.pt2, read by torch.export.load
    timm          read by timm.create_model("local-dir:OUT", pretrained=True); students timm:NAME
    open_clip     the student with its teacher's text tower: trainers.exports.student_clip.load_clip

export.json in the same folder describes inputs, preprocessing and outputs. Before anything is
written, the exported file embeds test images (with --bank) or random ones; each embedding must
have a cosine of at least 0.9999 to the student's.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import torch

from shards.bank.manifest import Manifest
from shards.bank.reader import load_manifest, load_shard
from shards.support import storage
from shards.support.command import command, make_parser
from shards.teachers.preprocess import Preprocess
from trainers.exports.formats import EXPORTS, OPSET, PARITY, Embed, Exported, Job, described
from trainers.results.folder import Stored, open_stored, preprocess_of

FORMAT = "student-export/1"
ABOUT = "export.json"
IMAGES = 16


def _images(job: Job, bank: str | None) -> tuple[torch.Tensor, str]:
    """(prepared images, a description): the first test images of the bank, or random ones."""
    if job.manifest is not None and bank is not None:
        first = next(shard for shard in job.manifest.shards if shard.split == "test")
        pixels = load_shard(bank, job.manifest, first).arrays["image"][:IMAGES]
        images_BCHW = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
        return job.preprocess(images_BCHW).contiguous(), f"{len(images_BCHW)} test images"
    side, generator = job.preprocess.size, torch.Generator().manual_seed(0)
    images_BCHW = torch.randint(0, 256, (IMAGES, 3, side, side), generator=generator)
    return job.preprocess(images_BCHW.to(torch.uint8)).contiguous(), f"{IMAGES} random images"


@torch.inference_mode()
def parity(model: torch.nn.Module, embed: Embed, images_BCHW: torch.Tensor) -> float:
    """The smallest cosine between an image's embeddings by `model` and by `embed`.

    In [-1, 1], 1 for equal directions; NaN where an embedding is not finite.
    """
    expected_BD = model(images_BCHW)
    # Two batches of different size: an export with a fixed batch size would fail.
    exported_BD = torch.cat([embed(images_BCHW[:1]), embed(images_BCHW[1:])])
    return float(torch.nn.functional.cosine_similarity(expected_BD, exported_BD).min())


def export(
    location: str, to: str, out: str, bank: str | None = None, teacher: str = "", opset: int = OPSET
) -> dict[str, Any]:
    """Write a student in another tool's format; returns the content of its export.json.

    Args:
        location: a trial's or a student's folder, a path or a URL.
        to: a name in EXPORTS.
        out: an empty or new folder, a path or a URL.
        bank: path or URL of a bank whose test images are compared; random images without one.
        teacher: spec of a teacher in place of the trial's (open_clip only).
        opset: version of the ONNX operator set (onnx only).

    Raises:
        ValueError: where the format cannot hold the student, a required option is missing, `out`
            is not empty, or embeddings differ. Nothing is written then.
        OSError: where something cannot be read or written.
    """
    make = EXPORTS[to]
    if storage.scheme_of(out) == "https":
        raise ValueError(f"--out {out}: https:// can only be read; write to a path, s3:// or gs://")
    taken = storage.names(out) or (storage.is_local(out) and storage.local_path(out).is_file())
    if taken:
        raise ValueError(f"--out {out}: is not empty; choose another folder or delete it")
    stored = open_stored(location)
    _ = stored.network  # refuses a student without one
    manifest = load_manifest(bank) if bank else None
    job = Job(stored, _prepared(stored, manifest, bank), manifest, teacher, opset)
    exported = make(job)
    images_BCHW, what = _images(job, bank)
    cosine = parity(stored.network, exported.embed, images_BCHW)
    if not cosine >= PARITY:
        raise ValueError(
            f"{to}: embeddings of {what} have a cosine of {cosine:.6f} to the student's, at least "
            f"{PARITY} is needed; nothing was written"
        )
    about = _about(job, to, exported, {"cosine": cosine, "least": PARITY, "on": what})
    text = (json.dumps(about, indent=1) + "\n").encode()
    storage.write_folder(out, exported.files | {ABOUT: text})
    return about


def _prepared(stored: Stored, manifest: Manifest | None, bank: str | None) -> Preprocess:
    preprocess = preprocess_of(stored, manifest, bank or "")
    side = stored.about["image_size"]
    if preprocess.size != side:
        raise ValueError(
            f"{stored.location}: its result prepares images of {preprocess.size} pixels, the "
            f"student takes {side}"
        )
    return preprocess


def _about(job: Job, to: str, exported: Exported, parity: dict[str, Any]) -> dict[str, Any]:
    result = job.stored.result
    libraries = ("torch", "timm", *(("onnx", "onnxruntime") if to == "onnx" else ()))
    return {
        "format": FORMAT,
        "to": to,
        "student": job.stored.about,
        "trial": result.id if result else None,
        "teacher": result.config["teacher"] if result else None,
        "weights_sha256": result.weights_sha256 if result else None,
        **described(job),
        **exported.notes,
        "parity": parity,
        "libraries": {name: version(name) for name in libraries},
    }


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.export", __doc__)
    parser.add_argument("trial", metavar="TRIAL", help="a trial's or a student's folder, or a URL")
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help=f"the format: {', '.join(EXPORTS)}"
    )
    parser.add_argument(
        "--out", metavar="DIR-OR-URL", help="a new folder (default: export/FORMAT in TRIAL)"
    )
    parser.add_argument(
        "--bank",
        metavar="DIR-OR-URL",
        help="shards whose test images are used for the comparison, and whose class names are "
        "exported with open_clip",
    )
    parser.add_argument(
        "--teacher",
        default="",
        metavar="SPEC",
        help="open_clip only: the teacher whose text tower is exported, in place of the trial's",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        metavar="N",
        help="onnx only: version of the operator set (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    if options.teacher and options.to != "open_clip":
        raise ValueError(f"--teacher: has no effect with --to {options.to}; leave it out")
    out = options.out or storage.join(options.trial, "export", options.to)
    about = export(options.trial, options.to, out, options.bank, options.teacher, options.opset)
    found = about["parity"]
    print(f"cosine to the student: {found['cosine']:.7f} (smallest of {found['on']})")
    print(storage.join(out, ABOUT))
    return 0


if __name__ == "__main__":
    main()
