"""What follows from a trial's fields together: contradictions, and fields without effect.

A field without effect is set to its default, so that equal trials have equal names: a sweep over
`momentum` has one trial where the optimiser is Adam, and an untrained student is not run once for
every learning rate. What contradicts itself is refused.

The rules read a mapping of fields and know no table; what the tables say is passed in as `Facts`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.config.durations import canonical_duration

Fields = Mapping[str, Any]

# Fields that only training reads, besides `epochs` and `duration`.
TRAINING = (
    "arm", "views", "target", "objective", "accumulate", "optimizer", "lr", "weight_decay",
    "momentum", "clip_norm", "schedule", "warmup", "ema", "precision", "compile", "cuda_graphs",
    "engine", "ranks", "sync_batchnorm", "elastic", "zero_stage", "offload",
)  # fmt: skip
# Fields that a student without a network does not read either.
NETWORK = ("seed", "input", "channels_last", "curve_every")
MOMENTUM = ("sgd", "muon")  # the optimisers that have a momentum
LEAST_MICRO_BATCH = 2  # BatchNorm needs two samples


@dataclass(frozen=True)
class Facts:
    """What the tables say about the names in a trial.

    Attributes:
        has_network: whether the student is a network, which `teacher_pca:K` is not.
        has_objective: whether there is one to train with; `none` is none.
        labels_only: whether the objective learns labels and not the teacher.
        second_view: whether the objective compares two views of each image.
    """

    has_network: bool
    has_objective: bool
    labels_only: bool
    second_view: bool


def one_length(fields: Fields) -> dict[str, Any]:
    """A given `duration` replaces `epochs`; one of whole epochs is written as `epochs`.

    Raises: ValueError where both are given.
    """
    duration = fields.get("duration")
    if duration is None:
        return dict(fields)
    if fields.get("epochs") is not None:
        raise ValueError("epochs and duration: both are given; keep one")
    whole = None
    if isinstance(duration, str):
        with contextlib.suppress(ValueError):  # the schema refuses it, and says why
            whole = re.fullmatch(r"(\d+) epochs", canonical_duration(duration))
    if whole is None:
        return {**fields, "epochs": None}
    return {**fields, "epochs": int(whole[1]), "duration": None}


def without_effect(fields: Fields, facts: Facts) -> set[str]:
    """Names of the fields that change nothing in this trial."""
    idle: set[str] = set()
    if not facts.has_network:
        idle |= {*TRAINING, *NETWORK}
    elif not trains(fields, facts):
        idle |= set(TRAINING)
    if fields["optimizer"] not in MOMENTUM:
        idle.add("momentum")
    if fields["engine"] == "deepspeed":
        idle.add("channels_last")  # DeepSpeed flattens all weights into one memory layout
    if fields["curve_every"] is None or "curve_every" in idle:
        idle.add("curve_samples")
    return idle | idle_of_ranks(fields)


def trains(fields: Fields, facts: Facts) -> bool:
    """Whether any optimiser step is made."""
    length = float((fields["duration"] or f"{fields['epochs']}").split()[0])
    return facts.has_network and facts.has_objective and length > 0


def idle_of_ranks(fields: Fields) -> set[str]:
    """Fields about ranks that change nothing with this engine and number of ranks."""
    engine, elastic, ranks = fields["engine"], fields["elastic"], fields["ranks"]
    idle: set[str] = set()
    if engine == "single" and elastic == "order":
        idle.add("elastic")  # one process keeps the order of samples anyway
        elastic = "off"
    # With `exact` each micro-batch has its own statistics, and a single rank has all samples. With
    # `order` the number of ranks may grow when the trial is resumed, so one rank does not decide.
    if engine == "single" or elastic == "exact" or (elastic == "off" and ranks == 1):
        idle.add("sync_batchnorm")
    if engine != "deepspeed":
        idle |= {"zero_stage", "offload"}
    elif fields["zero_stage"] == 0:
        idle.add("offload")  # nothing is split, so there is nothing to move elsewhere
    return idle


def check(fields: Fields, facts: Facts) -> None:
    """Refuse what contradicts itself. Raises: ValueError with field, value, what is right."""
    if trains(fields, facts):
        _check_objective(fields, facts)
    if fields["cuda_graphs"] and fields["engine"] != "single":
        raise ValueError(f"cuda_graphs: true with engine `{fields['engine']}`; choose `single`")
    if fields["optimizer"] == "muon" and fields["engine"] == "deepspeed" and fields["zero_stage"]:
        raise ValueError(
            f"optimizer: `muon` needs whole matrices, zero_stage {fields['zero_stage']} cuts them; "
            "choose zero_stage 0"
        )


def _check_objective(fields: Fields, facts: Facts) -> None:
    target, objective = fields["target"], fields["objective"]
    if facts.labels_only and target not in ("teacher", "labels"):
        raise ValueError(
            f"target: `{target}` with the objective `{objective}`, which learns labels alone; "
            "leave target out"
        )
    if not facts.labels_only and target == "labels":
        raise ValueError(
            f"target: `labels` with the objective `{objective}`; labels are for `supervised` alone"
        )
    if facts.second_view and fields["views"] < 2:
        raise ValueError(
            f"views: `{objective}` compares two views of each image; arm `{fields['arm']}` has "
            f"{fields['views']}: choose an arm that draws, and views of 2 or more"
        )
    if facts.second_view and fields["cuda_graphs"] and not fields["compile"]:
        raise ValueError("cuda_graphs: true with two views of each image; set it to false")


def check_ranks(fields: Fields) -> None:
    """Whether batch, micro-batches and ranks divide each other. Raises: ValueError."""
    ranks, exact = fields["ranks"], fields["elastic"] == "exact"
    batch_size, accumulate = fields["batch_size"], fields["accumulate"]
    if fields["engine"] == "single" and ranks != 1:
        raise ValueError(f"ranks: {ranks} with engine `single`; choose 1, or engine `ddp`")
    if fields["engine"] == "deepspeed" and fields["elastic"] != "off":
        raise ValueError(
            f"elastic: `{fields['elastic']}` with engine `deepspeed`; choose off, or engine `ddp`"
        )
    if exact and fields["cuda_graphs"]:
        raise ValueError("cuda_graphs: true with elastic: exact; set one of them to false or off")
    if exact and accumulate % ranks:
        raise ValueError(
            f"accumulate: {accumulate} is not divisible by {ranks} ranks (elastic: exact); "
            f"nearest: {_nearest(accumulate, ranks)}"
        )
    # With `exact` a rank computes whole micro-batches; otherwise each is divided among the ranks.
    parts = [] if exact or ranks == 1 else [f"{ranks} ranks"]
    parts = [f"{accumulate} micro-batches", *parts] if accumulate > 1 else parts
    unit = accumulate * (1 if exact else ranks)
    if batch_size % unit:
        raise ValueError(
            f"batch_size: {batch_size} is not divisible by {' of '.join(parts)}; "
            f"nearest: {_nearest(batch_size, unit)}"
        )
    if batch_size < LEAST_MICRO_BATCH * accumulate:
        raise ValueError(
            f"accumulate: {accumulate} leaves micro-batches of {batch_size // accumulate} sample; "
            f"choose at most {batch_size // LEAST_MICRO_BATCH}"
        )


def _nearest(value: int, unit: int) -> str:
    low = value // unit * unit
    return f"{low} or {low + unit}" if low else str(unit)
