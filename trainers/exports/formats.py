"""EXPORTS: a student in the formats of other tools.

A format is a function of a `Job`. It returns the files, and a function `embed` that runs the model
which the other tool's library has loaded from them. So the student is compared with the bytes to be
written, not with the model in memory from which they were made.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from shards.bank.manifest import Manifest
from shards.datasets.base import have_names
from shards.support.registry import Table, split_spec
from shards.support.without_compiler import import_timm
from shards.teachers.preprocess import Preprocess
from shards.teachers.prompts import class_embeddings, unpack_floats
from trainers.config.schema import TrialConfig
from trainers.probes.teacher_space import learns_teacher_space
from trainers.results.folder import Stored, teacher_in

PARITY = 0.9999  # smallest cosine allowed between embeddings of student and exported file
OPSET = 18  # read by onnxruntime 1.14 and newer
Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Job:
    """What is exported, and the options of the formats.

    stored: the student and its trial. preprocess: how its images are prepared. manifest: of the
    given bank, None without one. teacher: spec of a teacher in place of the trial's, or ""
    (open_clip only). opset: version of the ONNX operator set.
    """

    stored: Stored
    preprocess: Preprocess
    manifest: Manifest | None = None
    teacher: str = ""
    opset: int = OPSET

    def example(self) -> torch.Tensor:
        """Two blank prepared images for tracing; not stored in the export."""
        side = self.preprocess.size
        return torch.zeros(2, 3, side, side)


@dataclass(frozen=True)
class Exported:
    """The files of an export.

    files: contents by name. embed: prepared images (B, 3, S, S) -> embeddings (B, D), computed
    from the files. notes: entries of export.json for this format only.
    """

    files: dict[str, bytes]
    embed: Embed
    notes: dict[str, Any] = field(default_factory=dict)


def described(job: Job) -> dict[str, Any]:
    """Entries of export.json for every format: inputs, outputs and preprocessing."""
    side, prepare = job.preprocess.size, job.preprocess
    resize = f"resize to {prepare.resize or side} pixels a side ({prepare.interpolation}, antialias"
    cut = f"ed), cut the centre {side} x {side} out" if prepare.resize else "ed)"
    return {
        "inputs": {
            "images": {
                "dtype": "float32",
                "shape": ["batch", 3, side, side],
                "meaning": f"RGB: {resize}{cut}, divide by 255, subtract mean, divide by std",
            }
        },
        "outputs": {
            "embeddings": {
                "dtype": "float32",
                "shape": ["batch", job.stored.about["embedding_dim"]],
                "meaning": f"{_space(job.stored)}, not of unit length",
            }
        },
        "preprocess": prepare.model_dump(mode="json"),
    }


def _space(stored: Stored) -> str:
    """Of whose space a student's embeddings are, in words."""
    config = None
    with contextlib.suppress(ValueError):  # a plugin of the trial may be absent where it is used
        config = stored.config()
    if config is None:
        return "in the space of the trial's target, which is not known here"
    if learns_teacher_space(config):
        return "in the teacher's embedding space"
    return f"not in the teacher's embedding space ({_trained(config)})"


def _trained(config: TrialConfig) -> str:
    length = config.duration or f"{config.epochs} epochs"
    return f"objective {config.objective}, target {config.target}, {length}"


def _batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


# ---- onnx ----


def to_onnx(job: Job) -> Exported:
    """student.onnx: one file, `images` -> `embeddings`, with the preprocessing in its metadata.

    Raises: ValueError where the libraries are missing, or cannot write this opset.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ValueError(f"onnx: {error}; install it with pip install '.[export]'") from None
    program = torch.onnx.export(
        job.stored.network,
        (job.example(),),
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_shapes=_batch(),
        opset_version=job.opset,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    found = {one.domain: one.version for one in proto.opset_import}.get("")
    if found != job.opset:
        raise ValueError(f"--opset {job.opset}: torch wrote {found} instead; choose {found}")
    prepare = json.dumps(described(job)["preprocess"])
    proto.metadata_props.add(key="preprocess", value=prepare)
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def embed(images_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = {"images": np.ascontiguousarray(images_BCHW.numpy())}
        return torch.from_numpy(session.run(None, inputs)[0])

    return Exported({"student.onnx": data}, embed, {"opset": job.opset})


# ---- torch.export ----

PT2 = (
    "torch.export.load reads it. Weights are stored raw and the graph as JSON; the sample input is "
    "a pickle, which torch reads without running code. But torch.export.load falls back to full "
    "unpickling for files that need it, which can run code: load only files that you trust"
)


def to_torch_export(job: Job) -> Exported:
    """student.pt2, written by torch.export.save, for batches of any size."""
    program = torch.export.export(job.stored.network, (job.example(),), dynamic_shapes=_batch())
    stream = io.BytesIO()
    torch.export.save(program, stream)
    reloaded = torch.export.load(io.BytesIO(stream.getvalue())).module()
    return Exported({"student.pt2": stream.getvalue()}, reloaded, {"security": PT2})


# ---- timm ----


def to_timm(job: Job) -> Exported:
    """model.safetensors and config.json, for timm.create_model("local-dir:OUT", pretrained=True).

    The linear layer that computes the embedding becomes timm's classifier.
    Raises: ValueError for students of another kind, or models without one linear classifier.
    """
    import_timm()
    import timm

    spec, dim = job.stored.about["spec"], job.stored.about["embedding_dim"]
    kind, name = split_spec(spec)
    if kind != "timm":
        raise ValueError(
            f"timm: student `{spec}` is not a timm model; only students timm:NAME can be exported "
            "to timm, onnx and torch.export take every student"
        )
    pretrained = timm.get_pretrained_cfg(name)
    fixed = pretrained is not None and pretrained.fixed_input_size
    side, arguments = job.preprocess.size, {}
    if fixed:
        arguments["img_size"] = side
    model: Any = timm.create_model(name, pretrained=False, num_classes=dim, **arguments)
    state = _timm_state(job.stored.network, model, name)
    prepare = job.preprocess
    config = {
        "architecture": name,
        "num_classes": dim,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "distilled",
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": fixed,
            "interpolation": prepare.interpolation,
            "crop_pct": side / (prepare.resize or side),
            "crop_mode": "center",
            "mean": list(prepare.mean),
            "std": list(prepare.std),
            "num_classes": dim,
            "first_conv": model.pretrained_cfg.get("first_conv"),
            "classifier": model.pretrained_cfg.get("classifier"),
        },
    }
    text = (json.dumps(config, indent=2) + "\n").encode()
    files = {"model.safetensors": save(state, {"format": "pt"}), "config.json": text}
    with tempfile.TemporaryDirectory() as folder:
        for file, data in files.items():
            Path(folder, file).write_bytes(data)
        reloaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return Exported(
        files, reloaded, {"load": 'timm.create_model("local-dir:OUT", pretrained=True)'}
    )


def _timm_state(student: nn.Module, model: Any, name: str) -> dict[str, torch.Tensor]:
    """The student's weights under timm's names: trunk.X -> X, head.0 -> the classifier.

    Raises: ValueError where the model's layers are not the student's.
    """
    last = model.get_classifier()
    names = [path for path, module in model.named_modules() if module is last]
    if not isinstance(last, nn.Linear) or not names:
        raise ValueError(
            f"timm: the classifier of `{name}` is {type(last).__name__}, expected one Linear; "
            "onnx and torch.export take every student"
        )
    state = {}
    for key, tensor in student.state_dict().items():
        renamed = key.removeprefix("trunk.")
        if key.startswith("head.0."):
            renamed = f"{names[0]}.{key.removeprefix('head.0.')}"
        state[renamed] = tensor.detach().cpu().contiguous().clone()
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"timm: the tensors of `{name}` with a classifier are not the student's: {first}"
        ) from None
    return state


# ---- open_clip ----


def to_open_clip(job: Job) -> Exported:
    """The student and its teacher's text tower, as `trainers.exports.student_clip.load_clip` reads
    them.

    Raises: ValueError where the student did not learn its teacher's space, or the teacher's weights
    are not those it was distilled from.
    """
    from shards.teachers import open_teacher, text_tower
    from trainers.exports.student_clip import StudentCLIP, load_clip, pack_clip

    result, manifest = job.stored.result, job.manifest
    config = job.stored.config()
    if config is None:
        print(
            "no result.json says whether this student learned its teacher's space, in which "
            "images and text are compared",
            file=sys.stderr,
        )
    elif not learns_teacher_space(config):
        raise ValueError(
            f"{job.stored.location}: a student of {_trained(config)}: its embeddings are not in "
            "its teacher's space, where images and text are compared; expected one trained with "
            "cosine, mse, theia or infonce on target teacher or pca:K; onnx and torch.export take "
            "every student"
        )
    in_bank = teacher_in(manifest, job.stored, "--bank") if manifest else None
    spec = job.teacher or (result.config["teacher"] if result else in_bank and in_bank.spec)
    pin = result.weights_sha256 if result else in_bank and in_bank.weights_sha256
    if not spec or not pin:
        raise ValueError(
            f"{job.stored.location}: no result.json names the teacher whose text tower is needed; "
            "give the trial's folder, or the shards with --bank"
        )
    print(f"opening the text tower of {spec}", file=sys.stderr)
    teacher = open_teacher(spec)
    if teacher.weights_sha256 != pin:
        raise ValueError(
            f"teacher `{spec}`: weights {teacher.weights_sha256[:16]}, the student was distilled "
            f"from {pin[:16]}; name the right ones with --teacher"
        )
    tower = text_tower(teacher)
    classes, text_CD = _classes(job, teacher)
    clip = StudentCLIP(job.stored.network, tower, job.preprocess, classes, text_CD)
    files = pack_clip(clip, job.stored.about)
    with tempfile.TemporaryDirectory() as folder:
        for file, data in files.items():
            Path(folder, file).write_bytes(data)
        reloaded = load_clip(folder)
    texts = [f"a photo of a {name}." for name in (classes or ("cat", "dog"))[:16]]
    _check_text(teacher.embed_text(texts), reloaded.embed_text(texts))
    return Exported(files, reloaded.encode_image, {"teacher": spec, "weights_sha256": pin})


def _classes(job: Job, teacher: Any) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names and their text embeddings (C, D), None where there are none.

    Those of the bank, or else computed from the class names and prompts in the trial's result.
    """
    if job.manifest is not None:
        index = job.manifest.plan.teachers.index(teacher_in(job.manifest, job.stored, "--bank"))
        packed = job.manifest.class_embeddings[index]
        if packed is None:
            return (), None
        text_CD = unpack_floats(packed.shape, packed.float32, "class embeddings of --bank")
        return job.manifest.plan.dataset.classes, text_CD
    if job.stored.result is None:
        return (), None
    stored = job.stored.result.input
    classes, templates = tuple(stored.classes), tuple(stored.templates)
    if not have_names(classes):
        return (), None
    print(f"encoding {len(classes)} classes x {len(templates)} prompts", file=sys.stderr)
    return classes, class_embeddings(teacher, classes, templates)


def _check_text(expected_TD: torch.Tensor, exported_TD: torch.Tensor) -> None:
    """Check that the exported text tower computes the teacher's text embeddings (T, D).

    Raises: ValueError where a cosine is below PARITY.
    """
    cosine = float(nn.functional.cosine_similarity(expected_TD, exported_TD).min())
    if not cosine >= PARITY:
        raise ValueError(f"open_clip: text embeddings changed, cosine {cosine:.6f} < {PARITY}")


EXPORTS: Table[Callable[[Job], Exported]] = Table(
    "format",
    {
        "onnx": to_onnx,
        "torch.export": to_torch_export,
        "timm": to_timm,
        "open_clip": to_open_clip,
    },
    closed=True,
)
