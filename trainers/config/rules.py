"""What follows from a trial's other fields, and what has no effect in it.

A field without effect is at its default, so that trials that are the same have the same name: a
sweep over `temperature` has one trial where the objective has no infonce, and an untrained
student is not run once for every learning rate. What contradicts itself is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainers.objectives import UNTRAINED, unread_fields
from trainers.students.teacher_pca import has_no_network

if TYPE_CHECKING:
    from trainers.config.schema import TrialConfig

# What only training reads, beside `epochs` and `duration`.
TRAINING = (
    "arm", "views", "target", "objective", "accumulate", "optimizer", "lr", "weight_decay",
    "momentum", "clip_norm", "schedule", "warmup", "ema", "precision", "compile", "cuda_graphs",
    "engine", "ranks", "sync_batchnorm", "elastic", "zero_stage", "offload",
)  # fmt: skip
STUDENT = ("seed", "input", "channels_last", "curve_every")  # nor does what is no network
MOMENTUM = ("sgd", "muon")  # the optimisers that have it


def settled(config: TrialConfig) -> dict[str, Any]:
    """{field: value} of those that the others decide. Raises: ValueError for contradictions."""
    defaults = {name: field.default for name, field in type(config).model_fields.items()}
    idle: set[str] = set()
    decided: dict[str, Any] = {}
    if has_no_network(config.student) or not config.trains or config.objective == UNTRAINED:
        idle |= set(TRAINING)
        decided |= {"epochs": 0, "duration": None}
        idle |= set(STUDENT) if has_no_network(config.student) else set()
    elif config.objective == "supervised":
        decided["target"] = _only_labels(config.target)
    else:
        _refuse(config)
    _refuse_together(config)
    if config.optimizer not in MOMENTUM:
        idle.add("momentum")
    if config.engine == "deepspeed":
        idle.add("channels_last")  # it has one memory layout
    objective = defaults["objective"] if "objective" in idle else config.objective
    idle |= unread_fields(objective)
    if config.curve_every is None or "curve_every" in idle:
        idle.add("curve_samples")
    return {name: defaults[name] for name in idle} | decided


def _only_labels(target: str) -> str:
    if target not in ("teacher", "labels"):
        raise ValueError(
            f"target: `{target}` with the objective `supervised`, which learns labels alone; "
            "leave target out"
        )
    return "labels"


def _refuse(config: TrialConfig) -> None:
    if config.target == "labels":
        raise ValueError(
            f"target: `labels` with the objective `{config.objective}`; labels are for "
            "`supervised` alone"
        )
    terms = config.objective.split("+")
    if "infonce" in terms and config.infonce_positive == "student" and config.views < 2:
        raise ValueError(
            f"infonce_positive: `student` needs a second view; arm `{config.arm}` has "
            f"{config.views}: choose an arm that draws, and views of 2 or more"
        )
    if config.infonce_positive == "student" and config.cuda_graphs and not config.compile:
        raise ValueError("cuda_graphs: true with infonce_positive `student`; set it to false")


def _refuse_together(config: TrialConfig) -> None:
    """What engines could not do together."""
    if config.cuda_graphs and config.engine != "single":
        raise ValueError(f"cuda_graphs: true with engine `{config.engine}`; choose `single`")
    if config.optimizer == "muon" and config.engine == "deepspeed" and config.zero_stage:
        raise ValueError(
            f"optimizer: `muon` needs whole matrices, zero_stage {config.zero_stage} cuts them; "
            "choose zero_stage 0"
        )
