"""A new member of a table is one entry in one place, used to the end.

An arm with an option, an objective with a weight, and a default probe.

Nothing else in the packages knows of what this module adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch.nn.functional import huber_loss

from shards.arms import ARMS, describe_arms, make_arm
from shards.arms.base import Option, arm_entry
from shards.arms.ops import Op, below
from shards.bank.reader import iter_shards
from shards.building.build import build
from shards.building.request import Request
from shards.verify import verify
from sweep.planning.expand import expand
from sweep.planning.grid import read_grid
from sweep.planning.settings import override
from trainers.canonical import load_config, make_config
from trainers.config.types import Number
from trainers.objectives import OBJECTIVES
from trainers.objectives.base import Objective, ObjectiveFields
from trainers.probes import PROBES
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.names import metric_of
from trainers.results.folder import finished
from trainers.runner import run_trial

# ---- an arm with an option ----


@dataclass(frozen=True)
class Cutout(Op):
    """A black square of `size` pixels at a random position (DeVries & Taylor, 2017)."""

    size: int = 8
    columns: ClassVar[tuple[str, ...]] = ("top", "left")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return below(words_NC, 32 - self.size + 1)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        rows_BH = torch.arange(height) - params_BC[:, 0, None]
        columns_BW = torch.arange(width) - params_BC[:, 1, None]
        inside_BHW = ((rows_BH >= 0) & (rows_BH < self.size))[:, :, None] & (
            (columns_BW >= 0) & (columns_BW < self.size)
        )[:, None, :]
        return images_BCHW.masked_fill(inside_BHW[:, None], 0)


CUTOUT = arm_entry(
    "cutout",
    "a black square of SIZE pixels (default 8)",
    lambda size: (Cutout(size),),
    Option("size", 8, 1, 32, integer=True, unit="pixels"),
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bank whose training and test images are seen under the new arm."""
    out = tmp_path_factory.mktemp("one_entry") / "bank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARMS, "cutout", CUTOUT)
        request = Request(
            dataset="digits",
            teachers=("embedded",),
            arms=("cutout:12",),
            test_arms=("cutout",),
            views=2,
            train_samples=40,
            test_samples=20,
        )
        build(request, str(out))
        yield out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cutout:33", r"arm `cutout:33`: size `33` must be a whole number of pixels from 1 to 32"),
        ("cutout:2.5", "size `2.5` must be a whole number of pixels"),
        ("cutout:1:2", r"size `1:2` must be"),
    ],
)
def test_an_arms_option_is_checked(bank: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_arm(spec)


def test_an_arm_is_documented(bank: Path) -> None:
    assert ("cutout[:SIZE]", "a black square of SIZE pixels (default 8)") in describe_arms()
    assert make_arm("cutout").spec == "cutout:8"


def test_a_bank_holds_an_arms_views_and_verifies(bank: Path) -> None:
    verdict = verify(str(bank), live=4)
    assert verdict.good, verdict.failures
    record = verdict.manifest.plan.arms["train"][1]
    assert (record.arm, record.columns) == ("cutout:12", ("top", "left"))
    assert record.options == {"size": 12}
    for shard in iter_shards(str(bank), verdict.manifest, "train"):
        unit_NVD = shard.arrays["embedding.0"]
        assert (unit_NVD[:, 0] != unit_NVD[:, 1]).any(axis=1).all()
        assert shard.arrays["params"].max() <= 20


def test_metrics_under_an_arm_have_names_of_the_glossary(bank: Path) -> None:
    metric = metric_of(f"test/{make_arm('cutout').metric}/accuracy")
    assert metric is not None
    assert metric.probe == "robustness"


# ---- an objective with a weight, and a default probe ----


class HuberFields(ObjectiveFields):
    huber_weight: Number = Field(default=1.0, ge=0)
    huber_delta: Number = Field(default=1.0, gt=0)


def huber(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: HuberFields) -> torch.Tensor:
    """Mean Huber loss of raw vectors."""
    return fields.huber_weight * huber_loss(student_BD, teacher_BD, delta=fields.huber_delta)


def center(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    yield "center/norm", float(np.linalg.norm(bank.test_ND.mean(axis=0)))


CENTER = Probe(
    center,
    default=True,
    metrics="""
center/norm | length | 0 to 1 | lower
    length of the mean embedding
""",
)
TRIAL = {
    "dataset": "digits", "teacher": "embedded", "student": "width:1", "arm": "cutout:12",
    "views": 2, "train_samples": 40, "test_samples": 20, "epochs": 1, "batch_size": 20,
    "test_arms": ["cutout"], "test_views": 2, "adapt_arms": [],
}  # fmt: skip
HUBER = TRIAL | {"objective": "huber+cosine"}


@pytest.fixture
def _entries(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARMS, "cutout", CUTOUT)
    monkeypatch.setitem(OBJECTIVES, "huber", Objective(huber, HuberFields))
    monkeypatch.setitem(PROBES, "center", CENTER)


@pytest.mark.usefixtures("_entries")
def test_a_trial_runs_with_all_three(bank: Path, tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    probes = ["spectrum", "robustness", "center"]
    file.write_text(json.dumps(HUBER | {"huber_weight": 0.5, "probes": probes}))
    config = load_config(str(file))
    assert config.objective == "cosine+huber"
    result = run_trial(config, str(bank), str(tmp_path / "runs"))
    assert result is not None
    assert 0 < result.metrics["test/center/norm"] <= 1
    assert result.config["huber_weight"] == 0.5
    assert result.config["huber_delta"] == 1.0
    assert make_config(result.config) == config
    assert finished(str(tmp_path / "runs"), config) == result


@pytest.mark.usefixtures("_entries")
def test_an_objectives_fields_are_set_checked_and_named() -> None:
    grid = read_grid("axes: {huber_weight: [0.5, 1.0, 2.0]}", "grid.yaml", "mine")
    fixed = [f"{name}={json.dumps(value)}" for name, value in HUBER.items()]
    trials = expand(override(grid, [*fixed, "huber_delta=0.3"], None))
    assert [config.objective_fields["huber_weight"] for config in trials] == [0.5, 1.0, 2.0]
    assert {config.objective_fields["huber_delta"] for config in trials} == {0.3}
    assert len({config.identity for config in trials}) == 3
    with pytest.raises(ValueError, match="unknown key `huber_wieght`; did you mean `huber_weight`"):
        make_config(HUBER | {"huber_wieght": 1.0})
    with pytest.raises(ValueError, match=r"huber_weight: Input should be greater than or equal"):
        make_config(HUBER | {"huber_weight": -1.0})


@pytest.mark.usefixtures("_entries")
def test_new_fields_are_in_no_trial_without_their_objective() -> None:
    named = TRIAL | {"probes": ["spectrum"]}
    config = make_config(named | {"huber_weight": 0.5})
    assert config == make_config(named)
    assert "huber_weight" not in config.model_dump()


@pytest.mark.usefixtures("_entries")
def test_a_default_probe_measures_trials_that_name_none() -> None:
    assert make_config(TRIAL).probes[-1] == "center"
