"""STUDENTS: small image encoders, each named by a spec `NAME:ARGUMENT`.

    width:2             the paper's CNN (arXiv 2603.06698) with its channels multiplied by 2
    params:2M           the same CNN, its width solved for a total parameter budget
    timm:resnet18       an untrained timm backbone, pooled, and one linear layer
    teacher_pca:16      no network at all: see trainers.students.teacher_pca

    student = build_student("width:2", embedding_dim=512, image_size=32, seed=0)
    embedding_BD = student(images_BCHW)         # raw, not normalised
    features_BF = student.features(images_BCHW) # what the last linear layer takes

Every student is a `Student`: a `trunk` (the feature extractor) and a `head` (the linear layers
that map to the embedding). Another one is an entry in STUDENTS:

    STUDENTS["flat"] = lambda argument, embedding_dim, image_size: Student(
        nn.Flatten(), nn.Sequential(nn.Linear(3 * image_size**2, embedding_dim))
    )
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shards.support import storage
from shards.support.registry import Table, split_spec
from trainers.students.cnn import (
    CELLS,
    LEAST_CHANNELS,
    LEAST_WIDTH,
    MOST_WIDTH,
    ParameterCount,
    Student,
    cnn,
    cnn_channels,
    cnn_parameters,
    count_macs,
    count_parameters,
    on_meta,
    solve_channels,
)
from trainers.students.teacher_pca import (
    canonical_pca,
    check_dimensions,
    has_no_network,
    no_network,
)

DECIMAL = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
TOLERANCE = 0.02  # of a parameter budget
SUFFIXES = {"K": 1_000, "M": 1_000_000}
FORMAT = "student/1"
WEIGHTS, RECORD = "student.safetensors", "student.json"


def _by_width(argument: str, embedding_dim: int, image_size: int) -> Student:
    """The paper's CNN with 16w, 32w and 64w channels."""
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
    _whole("image_size", image_size, CELLS)  # two halvings leave a pixel
    return cnn(cnn_channels(width), embedding_dim)


def _by_budget(argument: str, embedding_dim: int, image_size: int) -> Student:
    """The paper's CNN with a total of parameters within 2 % of the budget at this D."""
    spec = f"student `params:{argument}`"
    match = re.fullmatch(f"({DECIMAL})([KM])", argument)
    if not match or float(match[1]) == 0:
        raise ValueError(
            f"{spec}: the budget must be a positive decimal and K or M (thousands or millions of "
            "parameters), such as params:500K or params:2M"
        )
    budget = float(match[1]) * SUFFIXES[match[2]]
    channels = solve_channels(budget, embedding_dim)
    total = cnn_parameters(*channels, embedding_dim)
    if abs(total - budget) > TOLERANCE * budget:
        if total > budget:
            least = math.ceil(total / (1 + TOLERANCE) / SUFFIXES["K"])
            why = f"a convolution would have fewer than {LEAST_CHANNELS} channels"
            limit = f"smallest reachable is params:{least}K"
        else:
            most = math.floor(total / (1 - TOLERANCE) / SUFFIXES["M"])
            why = f"its width would be above {MOST_WIDTH:g}"
            limit = f"largest reachable is params:{most}M"
        raise ValueError(f"{spec}: at embedding_dim {embedding_dim} {why}; the {limit}")
    _whole("image_size", image_size, CELLS)
    return cnn(channels, embedding_dim)


def _by_timm(argument: str, embedding_dim: int, image_size: int) -> Student:
    """The backbone's own initialisation; models of a fixed size are made for `image_size`."""
    import timm

    names = timm.list_models()
    if argument not in names:
        near = difflib.get_close_matches(argument, names, n=3)
        hint = f"; did you mean {', '.join(f'`{name}`' for name in near)}?" if near else ""
        raise ValueError(
            f"student `timm:{argument}`: timm has no model `{argument}`{hint} "
            "(all: timm.list_models(); a name only, without a tag)"
        )
    pretrained = timm.get_pretrained_cfg(argument)
    fixed = pretrained is not None and pretrained.fixed_input_size
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    options |= {"img_size": image_size} if fixed else {}
    create = functools.partial(timm.create_model, argument, **options)
    try:
        with on_meta(), torch.no_grad():
            features_BF = create().eval()(torch.empty(1, 3, image_size, image_size))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        native = f", its own size is {pretrained.input_size[-1]}" if pretrained else ""
        raise ValueError(
            f"student `timm:{argument}`: does not take images of image_size {image_size}{native} "
            f"({str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
        ) from None
    if features_BF.ndim != 2:
        raise ValueError(
            f"student `timm:{argument}`: gives features of shape {tuple(features_BF.shape)} for "
            "one image; choose a model that pools them to one vector"
        )
    return Student(create(), nn.Sequential(nn.Linear(features_BF.shape[1], embedding_dim)))


STUDENTS: Table[Callable[[str, int, int], Student]] = Table(
    "student",
    {"width": _by_width, "params": _by_budget, "timm": _by_timm, "teacher_pca": no_network},
)


def canonical_student(spec: str) -> str:
    """One spelling a student: `width:1.0` -> `width:1`, `params:500K` -> `params:0.5M`."""
    name, argument = split_spec(spec)
    _ = STUDENTS[name]  # refuses an unknown one
    if name == "width" and re.fullmatch(DECIMAL, argument):
        return f"width:{Decimal(argument).normalize():f}"
    if name == "params" and (match := re.fullmatch(f"({DECIMAL})([KM])", argument)):
        millions = Decimal(match[1]) * SUFFIXES[match[2]] / SUFFIXES["M"]
        return f"params:{millions.normalize():f}M"
    return canonical_pca(spec) if has_no_network(spec) else spec


def build_student(
    spec: str, embedding_dim: int, image_size: int, seed: int | None = None
) -> Student:
    """The student named by `spec`, on the CPU, in training mode.

    With `seed` the weights are a pure function of (spec, embedding_dim, image_size, seed) and no
    generator outside is touched; without, they are drawn from torch's global CPU generator, which
    the caller has seeded. embedding_dim: D; image_size: pixels a side. Raises: ValueError.
    """
    if seed is None:
        with torch.device("cpu"):
            return _construct(spec, embedding_dim, image_size)
    _whole("seed", seed, 0)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs too
        return _construct(spec, embedding_dim, image_size)


def _construct(spec: str, embedding_dim: int, image_size: int) -> Student:
    """Draws from torch's global generator, on the device in force."""
    _whole("embedding_dim", embedding_dim, 1)
    _whole("image_size", image_size, 1)
    name, argument = split_spec(spec)
    return STUDENTS[name](argument, embedding_dim, image_size)


def _whole(field: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{field}: got {value!r}; expected a whole number of {least} or more")


@dataclass(frozen=True)
class StudentSummary:
    """What a dry run shows of a student; `macs` are per image, `channels` () but for the CNN."""

    spec: str
    parameters: ParameterCount
    macs: int
    channels: tuple[int, ...]


def describe(spec: str, embedding_dim: int, image_size: int) -> StudentSummary:
    """Size and cost of a student from its shapes alone: milliseconds, no weight is drawn."""
    if has_no_network(spec):
        check_dimensions(spec, embedding_dim)
        return StudentSummary(spec, ParameterCount(0, 0, 0), 0, ())
    model = _skeleton(spec, embedding_dim, image_size)
    cost = count_macs(model, image_size)
    return StudentSummary(spec, count_parameters(model), cost, model.channels)


def _skeleton(spec: str, embedding_dim: int, image_size: int) -> Student:
    with on_meta():
        return _construct(spec, embedding_dim, image_size)


# ---- on disk ----


def save_student(
    path_dir: str | Path, model: nn.Module, spec: str, embedding_dim: int, image_size: int
) -> None:
    """Write `student.safetensors` and then `student.json`, which names and checksums it.

    ValueError if the tensors are not those of a student built from the same three values.
    """
    from safetensors.torch import save

    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    _same_tensors(state, _skeleton(spec, embedding_dim, image_size), "model")
    weights = save(state)
    record = {
        "format": FORMAT,
        "spec": spec,
        "embedding_dim": embedding_dim,
        "image_size": image_size,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    folder = Path(path_dir)
    storage.write(str(folder / WEIGHTS), weights)
    storage.write(str(folder / RECORD), (json.dumps(record, indent=2) + "\n").encode())


def load(path_dir: str | Path) -> Student:
    """Rebuild what `save_student` wrote: on the CPU, in evaluation mode, bit for bit.

    ValueError for a missing, damaged or foreign file. torch's generators are left alone.
    """
    from safetensors.torch import load as load_arrays

    folder = Path(path_dir)
    record = _read_record(folder / RECORD)
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != record["sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS}: its sha256 is not the one in {RECORD}; save the student again"
        )
    state = load_arrays(weights)
    model = build_student(record["spec"], record["embedding_dim"], record["image_size"], seed=0)
    _same_tensors(state, model, str(folder / WEIGHTS))
    model.load_state_dict(state, strict=True)
    return model.eval()


def _read_record(file: Path) -> dict[str, Any]:
    kinds = {"format": str, "spec": str, "embedding_dim": int, "image_size": int, "sha256": str}
    try:
        record = json.loads(_read(file))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(record, dict) or set(record) != set(kinds):
        odd = sorted(set(record) ^ set(kinds)) if isinstance(record, dict) else ["not a table"]
        raise ValueError(
            f"{file}: expected exactly {', '.join(kinds)}; missing or unknown: {', '.join(odd)}"
        )
    for field, kind in kinds.items():
        if type(record[field]) is not kind:
            raise ValueError(f"{file}: {field}: got {record[field]!r}; expected {kind.__name__}")
    if record["format"] != FORMAT:
        raise ValueError(f"{file}: format: got {record['format']!r}; expected {FORMAT!r}")
    return record


def _same_tensors(state: dict[str, torch.Tensor], model: nn.Module, place: str) -> None:
    expected = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
    for name in expected | found:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{place}: tensor `{name}`: got {found.get(name, 'none')}; its spec gives "
                f"{expected.get(name, 'none')}"
            )


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; expected a folder written by save_student")
    return file.read_bytes()
