"""The teacher's batch may change the last bits, so it stands in the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.building.build import build
from shards.building.request import Request
from shards.teachers import open_teacher
from shards.teachers.preprocess import CPU_BATCH

REQUEST = Request(dataset="digits", teachers=("embedded",), train_samples=40, test_samples=10)


def of_batch(batch: int) -> Request:
    return REQUEST.model_copy(update={"batch": batch})


def test_the_plan_says_the_batch_that_the_teacher_was_given(tmp_path: Path, monkeypatch) -> None:
    seen: set[int] = set()

    def opened(*arguments):
        teacher = open_teacher(*arguments)
        embed = teacher.embed

        def watched(inputs: torch.Tensor) -> torch.Tensor:
            seen.add(len(inputs))
            return embed(inputs)

        teacher.embed = watched
        return teacher

    monkeypatch.setattr("shards.building.embed.open_teacher", opened)
    manifest = build(of_batch(256), str(tmp_path))
    assert manifest.plan.batch == CPU_BATCH
    assert seen == {CPU_BATCH, 40 % CPU_BATCH, 10}


@pytest.mark.thorough
def test_batches_larger_than_a_core_takes_are_one_bank(tmp_path: Path) -> None:
    first = build(of_batch(256), str(tmp_path / "one"))
    assert build(of_batch(64), str(tmp_path / "other")).identity == first.identity
    assert build(of_batch(64), str(tmp_path / "one")) == first


def test_a_build_is_not_continued_in_other_batches(tmp_path: Path, monkeypatch, refused) -> None:
    manifest = build(REQUEST, str(tmp_path))
    said = ("batch", "16", "8", "another folder")
    refused(lambda: build(of_batch(8), str(tmp_path)), *said)
    monkeypatch.setattr(
        "shards.building.request.CPU_BATCH", 8
    )  # as another version of this code might
    assert build(REQUEST, str(tmp_path)) == manifest  # it is finished
    (tmp_path / "manifest.json").unlink()
    refused(lambda: build(REQUEST, str(tmp_path)), *said)


def test_a_bank_that_says_the_batch_that_was_asked_is_still_served(tmp_path: Path) -> None:
    """As banks did that were built before."""
    manifest = build(REQUEST, str(tmp_path))
    plan = manifest.plan.model_copy(update={"batch": 256})
    old = manifest.model_copy(update={"plan": plan, "identity": plan.identity}).sealed()
    (tmp_path / "manifest.json").write_text(old.model_dump_json())
    assert build(REQUEST, str(tmp_path)) == old
