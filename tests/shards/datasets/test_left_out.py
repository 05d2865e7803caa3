"""What a data set leaves out is reported once in a process."""

from __future__ import annotations

import pytest

from shards.datasets.left_out import LeftOut, report_once, reported


def test_it_is_reported_once_in_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    found = LeftOut()
    found.report("folder:of-this-test")
    assert capsys.readouterr().err == ""
    found.add("hidden files", ".DS_Store")
    for _ in range(2):
        found.report("folder:of-this-test")
    line = "dataset folder:of-this-test: hidden files: 1 (first `.DS_Store`)"
    assert capsys.readouterr().err == f"{line}\n"
    assert reported()[-1] == line
    report_once(line)  # as a driver does with what a worker has reported
    assert capsys.readouterr().err == ""
