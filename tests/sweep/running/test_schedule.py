"""What a schedule does when it cannot even begin, without Ray."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sweep.planning.resources import Resources
from sweep.running import channel
from sweep.running.schedule import run_jobs
from sweep.running.stopping import Stopping
from tests.faults.test_full_disk import files_of_at_most
from trainers.results.lease import Behalf

pytestmark = pytest.mark.faults


def test_a_disk_that_is_full_when_tune_begins_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    monkeypatch.setattr(channel, "publish", lambda sweep, documents: published.append(sweep))
    monkeypatch.setattr(channel, "forget", published.remove)
    resources = Resources(cpus=1, gpus_per_trial=0.0)
    stopping = Stopping(str(tmp_path), lambda: False, lambda: ())
    said = rf"no space to write {tmp_path}/tune: [\d,]+ bytes free; make room, then run the same"
    with files_of_at_most(100), pytest.raises(OSError, match=said):
        run_jobs([], "store", tmp_path, resources, lambda *e: None, Behalf(), stopping)
    assert list(tmp_path.iterdir()) == []
    assert published == []
    assert "events" not in {thread.name for thread in threading.enumerate()}
