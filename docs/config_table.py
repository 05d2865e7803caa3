"""The table of a trial's fields in docs/configuration.md, made from the schema.

    python docs/config_table.py            # print it
    python docs/config_table.py --write    # put it between the two comments of configuration.md

Types, ranges and defaults come from `trainers.canonical.trial_fields`. The meaning of a field is
its `description` where it is declared with one, and otherwise the text in MEANINGS.
"""

from __future__ import annotations

import argparse
import re
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).parents[1]))

from trainers.canonical import trial_fields
from trainers.config.schema import PINS

PAGE = Path(__file__).with_name("configuration.md")
BEGIN, END = "<!-- fields -->", "<!-- /fields -->"

SECTIONS = {
    "Data and teacher": {
        "dataset": "data set, as for `shards.build`",
        "image_size": "side of the stored images in pixels; null: the data set's own",
        "train_samples": "a class-balanced subset of the train images; null: all",
        "test_samples": "a class-balanced subset of the test images; null: all",
        "validation_samples": "so many train images are held out: nothing is fitted on them, and "
        "curves are measured on them in place of test images; 0: none",
        "teacher": "teacher, as for `shards.build`",
        "arm": "augmentation or corruption of the train images",
        "views": "stored views of each train image; an arm without randomness has one",
        "data_seed": "seed of every draw of views and test noise; `per_seed`: the trial's `seed`, "
        "so that a spread over seeds includes the draws, at the cost of a bank for each seed",
        "teacher_sha256": "what the hash of the teacher's weights must begin with",
        "teacher_dim": "what the dimension of the teacher's embeddings must be",
        "teacher_size": "what the teacher's input size must be",
        "teacher_precision": "precision that the teacher's embeddings must have been computed in; "
        "null: any, and new banks take the fastest that agrees with fp32",
        "classes": "only the first so many classes; null: all",
    },
    "Student, target and objective": {
        "student": "`width:W`, `params:N`, `timm:NAME` or `teacher_pca:K`",
        "input": "images as stored, or resized to the teacher's input size",
        "target": "`teacher`, `standardised`, `phi_s`, `whitened[:EPS]` or `pca:K`",
        "objective": "one objective, or a sum such as `cosine+infonce`",
        "infonce_weight": "weight of `infonce` in a sum",
        "temperature": "of `infonce`",
        "infonce_positive": "`teacher`: the teacher's embedding of the same view; "
        "`student`: the student's embedding of another view",
        "theia_cosine_weight": "weight of the cosine loss in `theia`",
        "theia_smooth_l1_weight": "weight of the smooth L1 loss in `theia`",
        "rkd_distance_weight": "weight of the distances in `rkd`",
        "rkd_angle_weight": "weight of the angles in `rkd`",
        "sp_weight": "weight of `sp`",
        "vicreg_variance_weight": "weight of the variance term of `vicreg`",
        "vicreg_covariance_weight": "weight of the covariance term of `vicreg`",
        "vicreg_gamma": "target standard deviation; null: 1, or 1/sqrt(D) on unit vectors",
        "vicreg_vectors": "whether `vicreg` sees raw embeddings or unit vectors",
        "koleo_weight": "weight of `koleo`",
    },
    "Length and batches": {
        "seed": "seed of initialisation and of the order of samples",
        "recipe": "version of the arithmetic of training: set by the code, recorded, never chosen",
        "epochs": "passes over the train images; 0: an untrained student",
        "duration": "instead of `epochs`: for example `1000 steps` or `50000 samples`",
        "batch_size": "samples of an optimiser step, over all ranks and micro-batches",
        "accumulate": "micro-batches of a step; each has its own negatives",
    },
    "Optimiser": {
        "optimizer": "`adam`, `adamw`, `sgd` or `muon`",
        "lr": "learning rate",
        "weight_decay": "weight decay",
        "momentum": "of `sgd` and `muon`",
        "clip_norm": "limit of the gradient's norm; 0: no clipping",
        "schedule": "of the learning rate after the warm-up",
        "warmup": "length of the linear warm-up",
        "ema": "decay of the averaged weights, which are then measured; 0: no average",
    },
    "Precision and speed": {
        "precision": "arithmetic of the student's forward and backward pass",
        "channels_last": "memory layout of images and weights",
        "compile": "use `torch.compile`",
        "cuda_graphs": "record a step as a CUDA graph; engine `single` and `accumulate: 1` only",
    },
    "Engine and ranks": {
        "engine": "`single`, `ddp` or `deepspeed`",
        "ranks": "number of processes",
        "threads": "CPU threads of each process",
        "elastic": "what resuming with another number of ranks keeps: nothing, the order of "
        "samples, or every bit",
        "sync_batchnorm": "BatchNorm's statistics over the global batch instead of each rank's",
        "zero_stage": "ZeRO stage of `deepspeed`",
        "offload": "keep optimiser state in CPU memory (`deepspeed`)",
    },
    "Measurements during training": {
        "curve_every": "how often, for example `1 epochs`; null: never",
        "curve_samples": "at most so many images of each split",
        "probe_at": "times at which all `probes` are run as well, for example "
        "`[5 epochs, 15 epochs]`; those at the end or later change nothing",
    },
    "Measurements at the end": {
        "probes": "which probes to run",
        "test_arms": "arms, and groups of arms such as `cifar10c`, to measure under",
        "test_views": "random draws of each test arm",
        "adapt_arms": "test arms for `refitted` and `recalibrated` accuracies",
    },
    "Plugins": {
        "plugins": "modules of your own, see [Plugins](extending.md#plugins); recorded as "
        "`MODULE@HASH` of those that the trial uses something of, and of no others",
    },
}
MEANINGS = {name: text for fields in SECTIONS.values() for name, text in fields.items()}
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}
LIMITS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def table() -> str:
    """Markdown: for each section a heading and one row a field.

    Raises: ValueError for a field of the schema that has no meaning, or a meaning without field.
    """
    fields = trial_fields()
    if missing := [n for n, f in fields.items() if not (f.description or n in MEANINGS)]:
        raise ValueError(f"docs/config_table.py: no meaning for {missing}; add it to SECTIONS")
    if unknown := sorted(set(MEANINGS) - set(fields)):
        raise ValueError(f"docs/config_table.py: a trial has no field {unknown}; remove it")
    sections = {title: list(names) for title, names in SECTIONS.items()}
    if rest := [name for name in fields if name not in MEANINGS]:
        sections["Others"] = rest
    lines: list[str] = []
    for title, names in sections.items():
        lines += [f"### {title}", "", "| field | default | values | |", "|---|---|---|---|"]
        lines += [_row(name, fields[name]) for name in names] + [""]
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> str:
    mark = " †" if name in PINS else ""
    meaning = field.description or MEANINGS[name]
    return f"| `{name}`{mark} | {_default(field)} | {_values(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    """A default as it would be written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(item) for item in typing.cast("tuple[Any, ...]", value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(field: FieldInfo) -> str:
    """The type of a field and its limits, in words."""
    annotation, limits = field.annotation, list(field.metadata)
    if get_origin(annotation) in (types.UnionType, typing.Union):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) > 1:
            return ", or ".join(_values(FieldInfo(annotation=part)) for part in parts)
        (annotation,) = parts
    many = get_origin(annotation) is tuple
    annotation = get_args(annotation)[0] if many else annotation
    if get_origin(annotation) is Annotated:
        annotation, *inside = get_args(annotation)
        limits += inside
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    words = ["list of texts" if many else NAMES[typing.cast("type", annotation)]]
    for limit in _flat(limits):
        for key, text in LIMITS:
            bound = getattr(limit, key, None)
            if bound is not None:
                words.append(f"{text} {'2^63' if bound == 2**63 else f'{bound:g}'}")
        if pattern := getattr(limit, "pattern", None):
            words.append(f"matching `{pattern}`")
    return ", ".join(words)


def _flat(limits: list[Any]) -> list[Any]:
    """Limits of a field; pydantic nests some of them in a FieldInfo."""
    return [item for m in limits for item in (m.metadata if isinstance(m, FieldInfo) else [m])]


def with_table(text: str) -> str:
    """The page with the table between its two comments."""
    pattern = f"({re.escape(BEGIN)}\n).*?({re.escape(END)})"
    new, count = re.subn(pattern, lambda m: f"{m[1]}{table()}{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{PAGE}: expected `{BEGIN}` and below it `{END}`, once each")
    return new


def main() -> None:
    parser = argparse.ArgumentParser("python docs/config_table.py", description=__doc__)
    parser.add_argument("--write", action="store_true", help="update docs/configuration.md")
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
