"""Rules about several fields of a trial: combinations that are refused, fields without effect.

A field without effect is set to its default, so that equal trials have equal identities: a sweep
over `momentum` has one trial where the optimiser is Adam, and an untrained student is not run once
for every learning rate. Combinations that contradict each other are refused.

The rules read a mapping of fields and import no table of students, objectives or engines; what has
to be looked up in those is passed in as `Facts`.
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
    "engine", "ranks", "sync_batchnorm", "elastic", "zero_stage", "offload", "probe_at",
)  # fmt: skip
# Fields that a student without a network does not read either.
NETWORK = ("seed", "input", "channels_last", "curve_every")
MOMENTUM = ("sgd", "muon")  # the optimisers that have a momentum
LEAST_MICRO_BATCH = 2  # BatchNorm needs two samples
LEAST_VALIDATION = 2  # a covariance needs two samples


@dataclass(frozen=True)
class Facts:
    """Facts about the student and the objective of a trial that the tables of both hold.

    Attributes:
        has_network: whether the student is a network, which `teacher_pca:K` is not.
        has_objective: whether there is a loss to train with; objective `none` has no loss.
        labels_only: whether the objective learns labels and not the teacher.
        second_view: whether the objective compares two views of each image.
        zero_weights: the objective's weights where all of them are 0, so that it has no loss.
    """

    has_network: bool
    has_objective: bool
    labels_only: bool
    second_view: bool
    zero_weights: tuple[str, ...] = ()


def one_length(fields: Fields) -> dict[str, Any]:
    """The fields with the length of the training in one of `epochs` and `duration` alone.

    A given `duration` replaces the default of `epochs`; one of whole epochs is written as `epochs`.
    Raises: ValueError where both are given or null, or the duration is 0 steps or samples.
    """
    duration = fields.get("duration")
    if duration is None:
        if fields.get("epochs", 0) is None:
            raise ValueError("epochs and duration: both are null; give one, such as `epochs: 5`")
        return dict(fields)
    if fields.get("epochs") is not None:
        raise ValueError("epochs and duration: both are given; keep one")
    whole = None
    if isinstance(duration, str):
        with contextlib.suppress(ValueError):  # the schema refuses it later, with a message
            duration = canonical_duration(duration)
        if duration in ("0 steps", "0 samples"):
            raise ValueError(
                f"duration: `{duration}` trains nothing; for an untrained student write `epochs: 0`"
            )
        whole = re.fullmatch(r"(\d+) epochs", duration)
    if whole is None:
        return {**fields, "epochs": None}
    return {**fields, "epochs": int(whole[1]), "duration": None}


def without_effect(fields: Fields, facts: Facts) -> set[str]:
    """Names of the fields that change nothing in this trial."""
    unused: set[str] = set()
    if not facts.has_network:
        unused |= {*TRAINING, *NETWORK}
    elif not trains(fields, facts):
        unused |= set(TRAINING)
    if fields["data_seed"] == "per_seed":
        unused.discard("seed")  # it is the seed of the test noise too
    if fields["optimizer"] not in MOMENTUM:
        unused.add("momentum")
    if fields["engine"] == "deepspeed":
        unused.add("channels_last")  # DeepSpeed flattens all weights into one memory layout
    if fields["curve_every"] is None or "curve_every" in unused:
        unused.add("curve_samples")
    return unused | rank_fields_without_effect(fields)


def trains(fields: Fields, facts: Facts) -> bool:
    """Whether any optimiser step is made."""
    length = float((fields["duration"] or f"{fields['epochs']}").split()[0])
    return facts.has_network and facts.has_objective and length > 0


def rank_fields_without_effect(fields: Fields) -> set[str]:
    """Names of the fields about ranks that change nothing with this engine and number of ranks."""
    engine, elastic, ranks = fields["engine"], fields["elastic"], fields["ranks"]
    unused: set[str] = set()
    if engine == "single" and elastic == "order":
        unused.add("elastic")  # one process keeps the order of samples anyway
        elastic = "off"
    # With `exact` each micro-batch has its own statistics, and a single rank has all samples. With
    # `order` the number of ranks may grow when the trial is resumed, so one rank does not decide.
    if engine == "single" or elastic == "exact" or (elastic == "off" and ranks == 1):
        unused.add("sync_batchnorm")
    if engine != "deepspeed":
        unused |= {"zero_stage", "offload"}
    elif fields["zero_stage"] == 0:
        unused.add("offload")  # ZeRO 0 partitions no optimiser state that could be offloaded
    return unused


def check(fields: Fields, facts: Facts) -> None:
    """Refuse fields that contradict each other.

    Raises: ValueError with the field, its value and what would be right.
    """
    if trains(fields, facts):
        _check_objective(fields, facts)
    if 0 < fields["validation_samples"] < LEAST_VALIDATION:
        raise ValueError(
            f"validation_samples: a rank of {fields['validation_samples']} image is undefined; "
            f"choose 0, or at least {LEAST_VALIDATION}"
        )
    if fields["cuda_graphs"] and fields["engine"] != "single":
        raise ValueError(f"cuda_graphs: true with engine `{fields['engine']}`; choose `single`")
    # A graph writes gradients to the same memory at every replay, and the sum so far lies there.
    if fields["cuda_graphs"] and fields["accumulate"] > 1 and trains(fields, facts):
        raise ValueError(
            f"cuda_graphs: true with accumulate: {fields['accumulate']}; set cuda_graphs to false, "
            "or accumulate to 1"
        )
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
    if facts.zero_weights:
        raise ValueError(
            f"{' and '.join(facts.zero_weights)}: 0, so the loss of `{objective}` is 0 whatever "
            "the student does; choose more than 0, or `epochs: 0` for an untrained student"
        )
    if facts.second_view and fields["views"] < 2:
        raise ValueError(
            f"views: `{objective}` compares two views of each image; arm `{fields['arm']}` has "
            f"{fields['views']}: choose a random arm, and views of 2 or more"
        )
    if facts.second_view and fields["cuda_graphs"] and not fields["compile"]:
        raise ValueError("cuda_graphs: true with two views of each image; set it to false")


def check_ranks(fields: Fields) -> None:
    """Check that the batch can be divided among micro-batches and ranks.

    Raises: ValueError with the field, its value and the nearest values that would be right.
    """
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
