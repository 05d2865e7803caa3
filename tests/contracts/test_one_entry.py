"""A new member of a table is one entry in one place: an arm with an option, used to the end.

Nothing else in the packages knows of what this module adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from shards.arms import ARMS, describe_arms, make_arm
from shards.arms.base import Option, arm_entry
from shards.arms.ops import Op, below
from shards.bank.reader import iter_shards
from shards.building.build import build
from shards.building.request import Request
from shards.verify import verify
from trainers.probes.names import metric_of

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
