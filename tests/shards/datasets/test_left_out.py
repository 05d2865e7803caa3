"""What a data set leaves out is told once, by one of the processes that open it."""

from __future__ import annotations

import pytest

from shards.datasets.left_out import SILENT, LeftOut


def test_it_is_told_once_in_a_process_and_by_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = LeftOut()
    found.add("hidden files", ".DS_Store")
    monkeypatch.setenv(SILENT, "1")
    found.report("folder:of-this-test")
    assert capsys.readouterr().err == ""
    monkeypatch.delenv(SILENT)
    for _ in range(2):
        found.report("folder:of-this-test")
    line = "dataset folder:of-this-test: hidden files: 1 (first `.DS_Store`)\n"
    assert capsys.readouterr().err == line
